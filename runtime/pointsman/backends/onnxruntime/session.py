"""Graphs loaded into ONNX Runtime and run, and what it says turned into sentences."""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from pointsman.backends.base import ASK_FOR_LESS
from pointsman.backends.nvidia import missing_gpu
from pointsman.backends.onnxruntime.models.more_outputs import with_outputs
from pointsman.backends.onnxruntime.models.row_pairs import has_block_products, with_rows_in_company
from pointsman.backends.onnxruntime.weights.given import given_unsigned
from pointsman.backends.onnxruntime.weights.saturation import make_exact
from pointsman.backends.onnxruntime.weights.single_rows import rows_alone_differ
from pointsman.bundle import names
from pointsman.errors import BundleError, DeviceError
from pointsman.processors import restricted
from pointsman.wording import as_text, install, is_text

Device = Literal["cpu", "cuda"]

ELEMENT_TYPES = {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16}  # onnx.TensorProto.DataType
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ProviderOptions = dict[str, str]
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_FATAL = 4  # the highest severity of messages
_HARD_LINKS = "multiple hard links"  # of files whose tensors lie in branches
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "cuda failure 2:")


def why_not_cuda() -> str | None:
    """Why CUDA cannot be used, and what to do; None where ONNX Runtime was built with it and there is a GPU."""
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return f"the installed ONNX Runtime has no CUDA; {install('gpu')}, or use device 'cpu'"
    return missing_gpu()


def run(session: Any, binding: Any, device: Device, options: Any = None) -> None:  # noqa: ANN401 - untyped engine
    """Run a session on what is bound, with options of the run.

    Raises:
        DeviceError: there is too little memory.
    """
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:
        _check_memory(error, device)
        raise


def _check_memory(error: Exception, device: Device) -> None:
    """Say it plainly where an error of the engine's is one of memory.

    Raises:
        DeviceError: it is.
    """
    if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
        where = "the GPU" if device == "cuda" else "this machine"
        raise DeviceError(f"{where} is out of memory; {ASK_FOR_LESS}") from error


def session(
    path: Path,
    device: Device,
    threads: int | None,
    provider_options: ProviderOptions | None = None,
    shown: Sequence[str] = (),
    *,
    exact_integers: bool = False,
    model: bytes | None = None,
    changed: Callable[[bytes], bytes] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Any:  # noqa: ANN401 - untyped engine
    """Load a graph.

    Args:
        path: its file.
        device: where.
        threads: of the CPU; one for each core that the process may use where None.
        provider_options: of the device's execution provider.
        shown: int64 values inside it that shall be outputs too.
        exact_integers: whether it multiplies integers, which are to give the same on every processor and beside all
            rows; see `make_exact` and `with_rows_in_company`.
        model: what is loaded in place of the file's contents.
        changed: makes of these what is loaded.
        weights: its initializers that lie in no file; on the CPU they are to be kept as long as the session.

    Raises:
        BundleError: the engine refuses it, or cannot take its path.
        DeviceError: the device cannot be used, or has too little memory.
    """
    if not is_text(path):
        raise BundleError(f"{as_text(path)} is a path of bytes that are no UTF-8; give the bundle another")
    options = _options()
    # Encoder and decoder have a pool of threads each: those of one must not spin while the other computes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if exact_integers:
        make_exact(options)
    if device == "cpu":
        options.enable_mem_pattern = False  # it keeps a plan for every shape that it has seen, and saves no time
    if weights:
        options.add_external_initializers([*weights], [*weights.values()])
    options.intra_op_num_threads = threads or restricted() or 0  # 0: the engine chooses
    try:
        graph = _prepared(path if model is None else model, changed, shown, exact_integers=exact_integers)
        if exact_integers or isinstance(graph, bytes):
            # A graph in memory has no folder in which its weights could be looked for.
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent))
        with contextlib.ExitStack() as until_loaded:
            if exact_integers:
                given = given_unsigned(_content(graph), path.with_name(names.WEIGHTS), options)
                graph = until_loaded.enter_context(given)
            loaded = _loaded(graph, options, device, provider_options or {})
    except BundleError:
        raise
    except Exception as error:
        _check_memory(error, device)
        if _HARD_LINKS in str(error).lower():
            raise BundleError(
                f"a file beside {path} has several hard links, and ONNX Runtime {onnxruntime.__version__} refuses such "
                "weights; copy the bundle (`cp -r`, without `-l`)"
            ) from error
        raise BundleError(f"ONNX Runtime refuses {path.name}: {_first_line(error)}") from error
    require_device(loaded, device)
    return loaded


def require_device(loaded: Any, device: Device) -> None:  # noqa: ANN401 - untyped engine
    """Check that a session is where it was to be: the engine takes the CPU where it cannot load CUDA.

    Raises:
        DeviceError: it is not.
    """
    if loaded.get_providers()[0] != PROVIDERS[device]:
        raise DeviceError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load CUDA {onnxruntime.cuda_version or ''} or cuDNN here; "
            f"{install('gpu')} again, with a driver that fits, or use device 'cpu'"
        )


def _prepared(
    graph: Path | bytes, changed: Callable[[bytes], bytes] | None, shown: Sequence[str], *, exact_integers: bool
) -> Path | bytes:
    """What is loaded; see `session`."""
    if changed is not None:
        graph = changed(_content(graph))
    if exact_integers and has_block_products(content := _content(graph)) and rows_alone_differ():
        graph = with_rows_in_company(content)
    return with_outputs(_content(graph), shown) if shown else graph


def _content(graph: Path | bytes) -> bytes:
    return graph if isinstance(graph, bytes) else graph.read_bytes()


def _options() -> Any:  # noqa: ANN401 - untyped engine
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _loaded(graph: Path | bytes, options: Any, device: Device, provider_options: ProviderOptions) -> Any:  # noqa: ANN401
    return onnxruntime.InferenceSession(graph, options, providers=[(PROVIDERS[device], provider_options)])


def load_cuda() -> None:
    """Load CUDA and cuDNN from the wheels beside ONNX Runtime's; what is not found there is looked for in the system.

    ONNX Runtime reports what is missing in several lines on stdout and stderr, and takes the CPU instead; `session`
    says so in one.
    """
    onnxruntime.set_default_logger_severity(_FATAL)
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
