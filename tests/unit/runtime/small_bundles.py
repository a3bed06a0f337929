"""Bundles without networks: a truthful manifest, a vocabulary, and files of a few bytes in the graphs' places."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_backend import FakeBackend, Logits

from architectures import BASE_8
from pointsman.backends.choice import Choice
from pointsman.bundle import (
    SCHEMA,
    AxisRange,
    Graph,
    Limits,
    Manifest,
    Parity,
    PlanOptions,
    PlanRecord,
    Profile,
    Role,
    Source,
    Stack,
    Variant,
    decoder_specs,
    encoder_specs,
    names,
    record_of,
    write_manifest,
)
from pointsman.infill import Infiller
from pointsman.model import SwitchModel
from pointsman.text.tokenizer import Tokenizer
from tiny_vocabulary import write_tiny_vocabulary

EXTRA_IDS = 20
ARCHITECTURE = replace(
    BASE_8,
    vocab_size=128,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_heads=4,
    encoder=Stack(layers=4, sparse_layers=(1, 3)),
    decoder=Stack(layers=2, sparse_layers=(1,)),
)
PROFILE = Profile(
    name="one-row",
    axes={
        "rows": AxisRange(min=1, opt=1, max=1),
        "batch": AxisRange(min=1, opt=1, max=1),
        "positions": AxisRange(min=1, opt=1, max=1),
        "source": AxisRange(min=1, opt=64, max=128),
        "width": AxisRange(min=1, opt=1, max=1),
        "capacity": AxisRange(min=32, opt=64, max=128),
    },
)
PARITY = Parity(reference="nothing", max_error=2.5e-7, worst="decoder.block.1", tolerance=1e-4, expert_agreement=1.0)


def variant(folder: Path, form: Any = "fused", precision: Any = "float32") -> Variant:
    """A variant whose files are written."""
    place = folder / "variants" / precision
    place.mkdir(parents=True, exist_ok=True)
    files = [place / "weights.bin", place / f"{form}.encoder.onnx", place / f"{form}.decoder.onnx"]
    for file in files:
        file.write_bytes(file.name.encode() * 100)
    specs = [encoder_specs(ARCHITECTURE, precision), decoder_specs(ARCHITECTURE, precision)]
    encoder, decoder = (
        Graph(file=file.relative_to(folder).as_posix(), inputs=inputs, outputs=outputs)
        for file, (inputs, outputs) in zip(files[1:], specs, strict=True)
    )
    return Variant(
        form=form,
        precision=precision,
        capacity=64,
        encoder=encoder,
        decoder=decoder,
        files=tuple(record_of(folder, file) for file in files),
        parity=PARITY,
    )


def engine(folder: Path, built: Variant, role: Role = "decoder", **changes: Any) -> PlanRecord:
    """A plan of a variant, whose file is written."""
    name = f"{built.form}-{built.precision}"
    place = folder / names.plan_folder("tensorrt-rtx", "8.9", name) / f"{role}.plan"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"plan" * 500)
    return replace(
        PlanRecord(
            flavour="tensorrt-rtx",
            version="1.7.1.116",
            compute_capability="8.9",
            variant=name,
            role=role,
            built_from=built.sources(role),
            profiles=(PROFILE,),
            options=PlanOptions(weight_streaming=False, refittable=True, version_compatible=False),
            file=record_of(folder, place),
            build_seconds=1.5,
        ),
        **changes,
    )


def write_small_bundle(folder: Path, *, forms: tuple[str, ...] = ("fused", "portable"), **changes: Any) -> Manifest:
    """Write a bundle whose manifest differs from a sound one by `changes`."""
    (folder / "tokenizer").mkdir(parents=True)
    vocabulary = write_tiny_vocabulary(folder / "tokenizer")
    manifest = Manifest(
        schema=SCHEMA,
        producer={"pointsman": "0.1.0"},
        source=Source(name="tiny", sha256="0" * 64, disagreements=("config.json says 9 experts",), unused=("old",)),
        architecture=ARCHITECTURE,
        limits=Limits(tokens=128),
        extra_ids=EXTRA_IDS,
        tokenizer=(record_of(folder, vocabulary),),
        variants={f"{form}-float32": variant(folder, form) for form in forms},
    )
    manifest = replace(manifest, **changes)
    write_manifest(manifest, folder)
    return manifest


def fake_model(manifest: Manifest, logits: Logits, variant: str = "fused-float32") -> SwitchModel:
    """A model that runs on nothing."""
    return SwitchModel(manifest, Choice(variant, "cpu", "it is a fake"), FakeBackend(logits))


def fake_infiller(manifest: Manifest, tokenizer: Tokenizer, logits: Logits) -> Infiller:
    """An infiller that runs on nothing."""
    return Infiller(fake_model(manifest, logits), tokenizer)


def flip_a_bit(path: Path) -> None:
    """Change the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
