"""What can be wrong with plans, libraries and GPUs: each is one line that says what to do."""

import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pointsman import DecodingOptions, SwitchModel
from pointsman.backends.choice import choose
from pointsman.backends.tensorrt import libraries, opening, validity
from pointsman.backends.tensorrt.contexts import contexts_of
from pointsman.backends.tensorrt.kernel_cache import KernelCache, cache_folder
from pointsman.backends.tensorrt.plan import Plan
from pointsman.bundle import write_manifest
from pointsman.cli import main as cli
from pointsman.errors import BundleError, DeviceError, OptionsError, PointsmanError
from unit.backends.conftest import OPTIONS, VARIANT
from unit.backends.host_device import HostDevice

BUILD = "build them with `pointsman-export engines"
REBUILD = "build the engines again with `pointsman-export engines`"


def refusal(work) -> str:
    with pytest.raises(PointsmanError) as told:
        work()
    sentence = str(told.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(opening, "compute_capability", lambda: "8.9")


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            {"compute_capability": "8.6"},
            DeviceError,
            (
                "the tensorrt encoder engine of portable-float32 is for compute "
                f"capability 8.6, and this GPU has 8.9; {REBUILD[:-1]} --compute-capability 8.9`"
            ),
        ),
        (
            {"version": "0.9"},
            DeviceError,
            (
                "the tensorrt encoder engine of portable-float32 was built by version 0.9, and "
                f"1.0 is installed; {REBUILD}, or install tensorrt 0.9"
            ),
        ),
        (
            {"version": "1.1", "options": replace(OPTIONS, version_compatible=True)},
            DeviceError,
            "by version 1.1, and 1.0 ",
        ),
        (
            {"built_from": ()},
            BundleError,
            (
                "the tensorrt encoder engine of portable-float32 is out of date, as the variant "
                f"was written anew; {REBUILD}"
            ),
        ),
    ],
)
def test_plans_for_others(hosted, gpu, changes, error, sentence):
    hosted.change(**changes)
    for work in (hosted.model, lambda: choose(hosted.manifest, device="auto", variant="auto", engine="tensorrt")):
        with pytest.raises(error):
            work()
        assert sentence in refusal(work)


def test_a_version_compatible_plan_runs_on_later_versions(hosted):
    hosted.change(version="0.10.2", options=replace(OPTIONS, version_compatible=True))
    model = hosted.model()
    assert model.backend.engine == "host_tensorrt 1.0"
    assert model.generate([[5, 1]], DecodingOptions(max_new_tokens=2))


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_a_changed_plan(hosted, role):
    (file,) = hosted.folder.glob(f"engines/*/*/{role}.plan")
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    path = f"engines/tensorrt-sm89/portable-float32/{role}.plan"
    assert refusal(hosted.model) == f"{path} was changed (its sha256 differs); {REBUILD}"
    file.unlink()
    assert refusal(hosted.model) == f"{path} is missing; {REBUILD}"


def test_a_plan_that_the_library_refuses(hosted):
    hosted.rewrite("decoder", b"not a plan")
    expected = f"the decoder engine cannot be loaded: Error Code 1: Serialization (magicTag); {REBUILD}"
    assert refusal(hosted.model) == expected


def test_out_of_device_memory(hosted):
    sentence = "the GPU is out of memory; ask for fewer inputs or beams at a time, or use a smaller precision"
    model = hosted.model()
    hosted.device.room = sum(hosted.device.live.values()) + 2000
    assert refusal(lambda: model.generate([[5, 1]] * 12)).startswith("the GPU is out of memory")
    hosted.device.room = 1 << 30
    assert model.generate([[5, 1]])  # it recovers
    plan = json.loads((hosted.folder / "engines/tensorrt-sm89/portable-float32/decoder.plan").read_bytes())
    hosted.rewrite("decoder", json.dumps({**plan, "greedy": True}).encode())
    assert refusal(hosted.model) == sentence


def test_a_bundle_without_plans(hosted, gpu):
    write_manifest(replace(hosted.manifest, engines=()), hosted.folder)
    for flavour in ("tensorrt", "tensorrt-rtx"):
        expected = f"the bundle has no {flavour} engines; {BUILD} --flavour {flavour}`"
        assert refusal(lambda f=flavour: SwitchModel.load(hosted.folder, engine=f)) == expected


def test_a_variant_without_plans(hosted, gpu):
    for variant, sentence in (
        (VARIANT, f"the bundle has no tensorrt-rtx engines of {VARIANT}; {BUILD} --flavour tensorrt-rtx`"),
        (
            "fused-int8",
            (
                f"the bundle has no variant 'fused-int8'; it has {VARIANT}; "
                "`pointsman-calib quantize` makes those that are quantized"
            ),
        ),
        ("fused-float8", f"the bundle has no variant 'fused-float8'; it has {VARIANT}"),
    ):
        load = lambda v=variant: SwitchModel.load(hosted.folder, variant=v, engine="tensorrt-rtx")  # noqa: E731
        assert refusal(load) == sentence


def test_auto_takes_plans_that_run_here(hosted, gpu):
    choice = choose(hosted.manifest, device="auto", variant="auto")
    assert (choice.engine, choice.device, choice.variant) == ("tensorrt", "cuda", VARIANT)
    assert choice.reason == f"{VARIANT} is the fastest with tensorrt engines for this GPU and without quantization"
    assert choose(hosted.manifest, device="cpu", variant="auto").engine == "onnxruntime"
    assert choose(hosted.manifest, device="auto", variant="auto", engine="onnxruntime").engine == "onnxruntime"


def test_auto_says_why_it_takes_no_plans(hosted, gpu):
    hosted.change(compute_capability="12.0")
    choice = choose(hosted.manifest, device="auto", variant="auto")
    assert (choice.engine, choice.device) == ("onnxruntime", "cpu")
    assert "is for compute capability 12.0, and this GPU has 8.9" in choice.reason
    told = refusal(lambda: choose(hosted.manifest, device="cuda", variant="auto"))
    assert told.startswith("the installed ONNX Runtime has no CUDA")
    assert "is for compute capability 12.0, and this GPU has 8.9" in told


def with_int8_plans(hosted, *others):
    """The manifest with the plans' variant under the name of the INT8 one too, and plans of it and of `others`."""
    manifest = hosted.manifest
    variants = manifest.variants | {"portable-int8-qdq": manifest.variants[VARIANT]}
    names = ("portable-int8-qdq", *others)
    engines = tuple(replace(engine, variant=name) for engine in manifest.engines for name in names)
    return replace(manifest, variants=variants, engines=engines)


def test_auto_takes_no_variant_that_costs_accuracy(hosted, gpu):
    manifest = with_int8_plans(hosted, VARIANT)
    assert choose(manifest, device="auto", variant="auto").variant == VARIANT


@pytest.mark.parametrize("engine", ["auto", "tensorrt"])
def test_a_bundle_whose_only_plans_are_int8(hosted, gpu, engine):
    manifest = with_int8_plans(hosted)
    told = refusal(lambda: choose(manifest, device="cuda", variant="auto", engine=engine))
    sentence = (
        "the bundle's tensorrt engines are of portable-int8-qdq; ask for them, as with `variant='portable-int8-qdq'`"
    )
    assert told.endswith(sentence) if engine == "auto" else told == sentence
    choice = choose(manifest, device="cuda", variant="portable-int8-qdq", engine=engine)
    assert (choice.engine, choice.variant) == ("tensorrt", "portable-int8-qdq")


def test_asking_for_what_contradicts_itself(hosted):
    with pytest.raises(OptionsError, match="tensorrt does not run on the CPU; use device 'cuda' or engine 'onnxr"):
        choose(hosted.manifest, device="cpu", variant="auto", engine="tensorrt")
    with pytest.raises(OptionsError, match="unknown engine 'openvino'; use auto, onnxruntime, tensorrt, tensorrt-rtx"):
        choose(hosted.manifest, device="auto", variant="auto", engine="openvino")


def test_without_a_gpu_the_command_says_so(hosted, capsys):
    try:
        opening.compute_capability()
    except DeviceError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    assert cli.main(["infill", str(hosted.folder), "a <extra_id_0>", "--engine", "tensorrt"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "pointsman: there is no NVIDIA driver here; install one, or use --device cpu\n")


@pytest.mark.parametrize(
    ("flavour", "lean", "sentence"),
    [
        ("tensorrt", False, "tensorrt is not installed; run pip install '.[tensorrt]' in a checkout of Pointsman (NV"),
        ("tensorrt", True, "tensorrt or tensorrt_lean is not installed; run pip install '.[tensorrt]'"),
        ("tensorrt-rtx", False, "tensorrt_rtx is not installed; run pip install '.[tensorrt-rtx]'"),
    ],
)
def test_without_the_library(hosted, monkeypatch, flavour, lean, sentence):
    engine = replace(hosted.manifest.engines[0], flavour=flavour, options=replace(OPTIONS, version_compatible=lean))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal(lambda: libraries.library_for(engine)).startswith(sentence)


def test_a_library_that_does_not_load(hosted, monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = "tensorrt does not load: libnvinfer.so.11: cannot open shared object file; install it again"
    assert refusal(lambda: libraries.library_for(hosted.manifest.engines[0])) == expected


def rtx_plan(hosted, content: bytes):
    """Load bytes as a plan with the real TensorRT-RTX."""
    library = pytest.importorskip("tensorrt_rtx")
    file = hosted.folder / "some.plan"
    file.write_bytes(content)
    engine, graph = hosted.manifest.engines[1], hosted.manifest.variants[VARIANT].decoder
    return lambda: Plan(HostDevice(), library, replace(engine, flavour="tensorrt-rtx"), graph, file)


def test_tensorrt_rtx_itself_tells_a_damaged_plan(hosted):
    expected = f"the engine cannot run on a host: it is damaged; {REBUILD}"
    assert refusal(rtx_plan(hosted, b"x" * 4096)) == expected


def test_tensorrt_rtx_has_the_calls_that_are_made(hosted):
    library = pytest.importorskip("tensorrt_rtx")
    for kind, names in {
        "Runtime": "deserialize_cuda_engine get_engine_validity engine_header_size engine_host_code_allowed",
        "ICudaEngine": "create_execution_context create_runtime_config weight_streaming_budget_v2 "
        "get_weight_streaming_automatic_budget device_memory_size_v2",
        "IExecutionContext": "set_optimization_profile_async set_input_shape set_tensor_address execute_async_v3 "
        "set_device_memory",
        "IRuntimeConfig": "create_runtime_cache set_runtime_cache cuda_graph_strategy "
        "dynamic_shapes_kernel_specialization_strategy",
        "IRuntimeCache": "serialize deserialize",
        "ExecutionContextAllocationStrategy": "USER_MANAGED",
        "DynamicShapesKernelSpecializationStrategy": "LAZY",
        "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
        "EngineInvalidityDiagnostics": " ".join(validity._DIAGNOSES),
    }.items():
        for name in names.split():
            assert hasattr(getattr(library, kind), name), f"{kind}.{name}"


class Recorded:
    """TensorRT-RTX's objects, as far as a runtime cache needs them."""

    def __init__(self) -> None:
        self.content, self.config = b"", SimpleNamespace()

    def library(self):
        strategies = SimpleNamespace(LAZY="lazy", WHOLE_GRAPH_CAPTURE="whole")
        return SimpleNamespace(
            IRuntimeCache=object, DynamicShapesKernelSpecializationStrategy=strategies, CudaGraphStrategy=strategies
        )

    def create_runtime_config(self):
        self.config.create_runtime_cache = lambda: self
        self.config.set_runtime_cache = lambda cache: setattr(self.config, "cache", cache)
        return self.config

    def deserialize(self, content):
        self.content = content

    def serialize(self):
        return self.content

    def create_execution_context(self, config):
        return config


def test_the_runtime_cache_is_kept_from_one_process_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = Recorded()
    cache = contexts_of(None, first.library(), first, "abc")
    config = cache.make()
    assert config.cache is first
    assert config.dynamic_shapes_kernel_specialization_strategy == "lazy"
    assert config.cuda_graph_strategy == "whole"
    assert not cache.recordable
    first.content = b"compiled"
    del cache
    assert [file.name for file in cache_folder().iterdir()] == ["abc.kernels"]
    second = Recorded()
    contexts_of(None, second.library(), second, "abc")
    assert second.content == b"compiled"


def test_a_cache_that_cannot_be_kept_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "pointsman").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recorded = Recorded()
    cache = KernelCache(recorded.create_runtime_config(), "abc")
    recorded.content = b"compiled"
    del cache
    assert (tmp_path / "pointsman").read_text() == "in the way"
