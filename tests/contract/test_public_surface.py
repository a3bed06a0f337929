"""What the packages promise: their names, their documentation, their keywords, and what they do not import."""

import inspect
import pydoc
import re
import subprocess
import sys
import typing

import pytest

import pointsman
import pointsman_calib
import pointsman_export
from pointsman import DecodingOptions, Infiller, SwitchModel, errors
from pointsman.bundle import Variant
from pointsman.infill import DecodingFields

PUBLIC = {
    "AsyncClient",
    "BundleError",
    "BundleNotFoundError",
    "BusyError",
    "CheckpointError",
    "Client",
    "ClosedError",
    "CorpusError",
    "DeadlineError",
    "DecodingOptions",
    "DependencyError",
    "DeviceError",
    "EngineError",
    "Fill",
    "Generation",
    "Infiller",
    "OptionsError",
    "OutputError",
    "OutputExistsError",
    "ParityError",
    "PointsmanError",
    "ServiceError",
    "Span",
    "SwitchModel",
    "TextError",
    "TokenEvent",
    "Tokenizer",
    "TokenizerError",
    "UnavailableError",
}
FORBIDDEN = ("torch", "transformers", "onnx", "onnx_ir", "pointsman_export", "pointsman_calib")
ENGINES = ("onnxruntime", "tensorrt", "tensorrt_lean", "tensorrt_rtx", "cuda")


def test_names():
    assert set(pointsman.__all__) == PUBLIC
    assert len(pointsman.__all__) == len(PUBLIC)


def test_every_error_is_public():
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)} - {"ClassVar"}
    assert tree <= PUBLIC
    for name in tree:
        error = getattr(pointsman, name)
        assert issubclass(error, pointsman.PointsmanError)
        assert error.exit_code == (1 if name == "ParityError" else 2)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_object_and_method_is_documented(name):
    value = getattr(pointsman, name)
    assert inspect.getdoc(value)
    for member, function in inspect.getmembers(value, inspect.isroutine):
        if not member.startswith("_") and str(getattr(function, "__module__", "")).startswith("pointsman"):
            assert inspect.getdoc(function), f"{name}.{member}"


@pytest.mark.parametrize("module", ["pointsman", "pointsman.cli.main", "pointsman.inspection"])
def test_importing_brings_no_training_framework_and_no_engine(module):
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*FORBIDDEN, *ENGINES} & set(done.stdout.split())
    assert done.stderr == ""


@pytest.mark.parametrize("module", ["pointsman", "pointsman.cli.main", "pointsman.serving.scheduler"])
def test_importing_brings_numpy_and_sentencepiece_alone(module):
    code = f"""if True:
        import sys
        before = set(sys.modules)
        import {module}
        paths = {{str(getattr(sys.modules[name], "__file__", None)) for name in set(sys.modules) - before}}
        print(*{{path.split("site-packages/")[1].split("/")[0] for path in paths if "site-packages/" in path}})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"numpy", "sentencepiece"}


def test_decoding_keywords_are_the_fields_of_decoding_options():
    assert typing.get_type_hints(DecodingFields) == typing.get_type_hints(DecodingOptions)


@pytest.mark.parametrize("loader", [SwitchModel.load, Infiller.load])
def test_load(loader):
    parameters = inspect.signature(loader).parameters
    assert list(parameters) == ["bundle", "device", "variant", "engine", "threads", "verify", "routing", "max_memory"]
    assert [parameters[name].default for name in ("device", "variant", "engine")] == ["auto"] * 3
    types = typing.get_type_hints(loader)
    assert typing.get_args(types["device"]) == ("auto", "cpu", "cuda")  # so that type checkers refuse "gpu"
    assert typing.get_args(types["engine"]) == ("auto", "onnxruntime", "tensorrt", "tensorrt-rtx")


OPTIONS = [*DecodingFields.__annotations__]


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (Infiller.infill, ["text", "options", *OPTIONS]),
        (Infiller.infill_batch, ["texts", "options", *OPTIONS]),
        (Infiller.infill_in_batches, ["texts", "batch_size", "options", *OPTIONS]),
        (Infiller.stream, ["text", "options", *OPTIONS]),
        (Infiller.score, ["text", "candidates"]),
        (SwitchModel.generate, ["input_ids", "options", "constraint", "first_input", *OPTIONS]),
        (SwitchModel.stream, ["input_ids", "options", "constraint", *OPTIONS]),
        (SwitchModel.score, ["input_ids", "target_ids"]),
        (SwitchModel.routes, ["input_ids", "output_ids"]),
        (DecodingOptions.__init__, OPTIONS),
    ],
)
def test_verbs(method, names):
    assert list(inspect.signature(method).parameters)[1:] == names


@pytest.mark.parametrize("method", [Infiller.infill, Infiller.stream, SwitchModel.generate, pointsman.Client.infill])
def test_help_shows_every_option_with_its_default(method):
    shown = pydoc.plain(pydoc.render_doc(method))
    for name, default in inspect.signature(DecodingOptions).parameters.items():
        value = "..." if name == "max_new_tokens" else repr(default.default)
        assert re.search(rf"\b{name}: [^=]+ = {re.escape(value)}[,)]", shown), name


@pytest.mark.parametrize("verb", ["infill", "infill_batch", "infill_in_batches", "stream", "score"])
@pytest.mark.parametrize("client", [pointsman.Client, pointsman.AsyncClient])
def test_clients_have_the_verbs_of_an_infiller(client, verb):
    theirs, ours = (inspect.signature(getattr(one, verb)) for one in (client, Infiller))
    assert theirs.parameters == ours.parameters


def test_a_client_without_its_package():
    code = "import sys; sys.modules['httpx2'] = None; from pointsman import Client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    sentence = "httpx2 is not installed; run pip install '.[client]' in a checkout of Pointsman"
    assert done.stderr.splitlines()[-1] == f"pointsman.errors.DependencyError: {sentence}"
    with pytest.raises(AttributeError, match="module 'pointsman' has no attribute 'client'"):
        _ = pointsman.client


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (pointsman.Fill, ("text", "score", "spans")),
        (pointsman.Span, ("index", "text", "score", "token_ids", "state")),
        (pointsman.Generation, ("token_ids", "score", "finish_reason", "token_logprobs")),
    ],
)
def test_results(record, fields):
    assert tuple(record.__dataclass_fields__) == fields
    assert record.__dataclass_params__.frozen


# The calibrator's.

CALIBRATOR = {"Comparison", "Corpus", "CoverageRule", "Limits", "compare", "quantize"}


def test_names_of_the_calibrator():
    assert set(pointsman_calib.__all__) == CALIBRATOR
    for name in CALIBRATOR:
        value = getattr(pointsman_calib, name)
        assert inspect.getdoc(value), name
        assert not inspect.ismodule(value), name
    with pytest.raises(AttributeError, match="module 'pointsman_calib' has no attribute 'quantise'"):
        _ = pointsman_calib.quantise


def test_importing_the_calibrator_brings_no_more_than_the_runtime():
    heavy = (*ENGINES, "torch", "onnx", "onnx_ir", "polygraphy", "huggingface_hub", "tqdm")
    code = "import sys, pointsman_calib; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy) & set(done.stdout.split())


def test_what_the_calibrator_lacks_is_named():
    code = "import sys; sys.modules['onnx_ir'] = None; from pointsman_calib import quantize"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    sentence = "onnx_ir is not installed; run pip install '.[calib]' in a checkout of Pointsman"
    assert done.stderr.splitlines()[-1] == f"pointsman.errors.DependencyError: {sentence}"


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (pointsman_calib.quantize, "bundle scheme corpus limits coverage ranges method force device"),
        (
            pointsman_calib.compare,
            "bundle corpus baseline candidates limits layers batch_size generations device counter",
        ),
        (pointsman_calib.Corpus.read, "bundle sources documents seed window too_long split"),
    ],
)
def test_verbs_of_the_calibrator(function, names):
    assert list(inspect.signature(function).parameters) == names.split()


def test_quantizing_gives_a_variant_and_comparing_a_comparison():
    assert typing.get_type_hints(pointsman_calib.quantize)["return"] is Variant
    assert typing.get_type_hints(pointsman_calib.compare)["return"] is pointsman_calib.Comparison


# The exporter's.

EXPORTER = {
    "export_bundle": (
        [
            "source",
            "output",
            "forms",
            "dtype",
            "capacity",
            "max_tokens",
            "tokenizer",
            "base",
            "force",
            "discard",
            "ignore_unused",
            "ignore_generation_config",
            "verify",
            "revision",
            "token",
        ],
        {"forms": ("fused", "portable"), "dtype": "float32", "capacity": None, "max_tokens": 2048, "base": None},
    ),
    "build_plans": (
        ["bundle", "flavour", "compute_capabilities", "variants", "max_rows", "options", "force"],
        {"flavour": None, "compute_capabilities": (), "variants": (), "max_rows": 8},
    ),
    "export_triton": (
        ["bundle", "repository", "name", "variant", "gpu", "force"],
        {"name": None, "variant": "auto", "gpu": False, "force": False},
    ),
    "refit_plans": (["bundle", "donor", "flavour", "force"], {"flavour": None, "force": False}),
}


def test_names_of_the_exporter():
    assert set(pointsman_export.__all__) == set(EXPORTER)
    with pytest.raises(AttributeError, match="module 'pointsman_export' has no attribute 'anything'"):
        pointsman_export.anything  # noqa: B018 - asking is the test


@pytest.mark.parametrize("name", EXPORTER)
def test_functions_of_the_exporter(name):
    function, (parameters, defaults) = getattr(pointsman_export, name), EXPORTER[name]
    found = inspect.signature(function).parameters
    assert list(found) == parameters
    assert {key: found[key].default for key in defaults} == defaults
    assert all(found[key].kind is inspect.Parameter.KEYWORD_ONLY for key in defaults)
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in inspect.getdoc(function)


@pytest.mark.parametrize(
    ("asked", "absent"),
    [
        ("pointsman_export", ("torch", "onnx_ir", "polygraphy", "tensorrt", "tensorrt_rtx", "tqdm")),
        ("pointsman_export.build_plans", ("torch", "onnx_ir", "polygraphy", "tensorrt", "tensorrt_rtx")),
        ("pointsman_export.refit_plans", ("torch", "onnx_ir", "polygraphy", "tensorrt", "tensorrt_rtx")),
    ],
)
def test_the_exporter_imports_what_is_asked_for(asked, absent):
    code = f"import sys, pointsman_export; {asked}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(absent) & set(done.stdout.split())
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "package", "sentence"),
    [
        ("export_bundle", "torch", "torch is not installed; run pip install '.[export]' in a checkout of Pointsman"),
        (
            "build_plans",
            "tqdm",
            "tqdm is not installed; run pip install '.[tensorrt-rtx]', or pip install '.[tensorrt]' in",
        ),
    ],
)
def test_a_package_that_is_not_there(name, package, sentence):
    code = f"import sys; sys.modules['{package}'] = None; import pointsman_export; pointsman_export.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert sentence in done.stderr.splitlines()[-1]
