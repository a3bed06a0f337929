"""Train, export and evaluate the demo Switch Transformer.

    python train.py CORPUS --work SCRATCH --out FOLDER --minutes 60      # train and export
    python train.py CORPUS --out FOLDER --evaluate                       # recompute the figures of a folder

The folder it writes loads in ``transformers`` (SwitchTransformersForConditionalGeneration) and names its tensors
as the original checkpoints do.  The evaluation uses the unmodified ``transformers`` model, never the fast one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from corpus import (
    EOS,
    PAD,
    SENTINELS,
    UNK,
    Ids,
    Shape,
    Tokens,
    corrupt,
    encode_books,
    read_books,
    sentence_starts,
    split_books,
    train_vocabulary,
)
from fast_switch import FastSwitch, Sizes, bucket_table, export_tensors, import_tensors

PIECES = 3968
FIRST_SENTINEL = PIECES + SENTINELS - 1  # T5: <extra_id_n> = pieces + 99 - n
DENSITY, MEAN_SPAN, WINDOW = 0.15, 3.0, 128  # as published; the evaluation uses exactly these


def tune_process() -> None:
    """Start again with two settings that are read only at process start.

    glibc keeps freed blocks (fresh pages for every large tensor cost a fifth of the time), and OpenMP threads
    hardly spin while they wait (spinning makes a step ten times slower when another program uses the cores).
    """
    wanted = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000", "GOMP_SPINCOUNT": "2000"}
    if any(name not in os.environ for name in wanted):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**wanted, **os.environ})


class Threads:
    """Follows the load: one thread while other programs keep a core busy, else as many as asked for.

    Two threads that meet at a barrier after every product run at the speed of the slower one; beside another
    busy program one thread alone is faster.  Linux only (/proc/stat); elsewhere the number stays as it is.
    """

    def __init__(self, most: int) -> None:
        self.most, self.stat = most, Path("/proc/stat")
        self.time, self.used = time.monotonic(), self.others()
        torch.set_num_threads(most)

    def others(self) -> float:
        """Processor seconds that everybody else has used so far."""
        if not self.stat.exists():
            return 0.0
        ticks = [int(v) for v in self.stat.read_text().split("\n", 1)[0].split()[1:9]]
        own = os.times()
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") - own.user - own.system

    def follow(self) -> None:
        """Look at most about once a second, and change the number of threads on a clear difference."""
        now = time.monotonic()
        if now - self.time < 0.8:
            return
        used = self.others()
        load = (used - self.used) / (now - self.time)
        self.time, self.used = now, used
        if load > 0.4:
            torch.set_num_threads(1)
        elif load < 0.2:
            torch.set_num_threads(self.most)


# --- data -------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """Token streams of the training and of the held-out books, and where sentences start in the former."""

    train: Tokens
    held: Tokens
    starts: Ids

    def windows(self, rows: int, length: int, rng: np.random.Generator) -> Ids:
        """Training windows [rows, length]; half of them begin with a sentence, half anywhere."""
        at = rng.integers(0, len(self.train) - length, rows)
        snapped = self.starts[np.minimum(np.searchsorted(self.starts, at), len(self.starts) - 1)]
        snapped = np.minimum(snapped, len(self.train) - length)
        at = np.where(rng.random(rows) < 0.5, snapped, at)
        windows: Ids = self.train[at[:, None] + np.arange(length)].astype(np.int64)
        return windows


def load_data(corpus: Path, vocabulary: Path, cache: Path | None) -> Data:
    """Encode the corpus, training the vocabulary first if the file is missing; ``cache`` keeps the ids."""
    if cache is not None and vocabulary.exists() and (cache / "train.npy").exists():
        train, held = np.load(cache / "train.npy"), np.load(cache / "held.npy")
    else:
        train_books, held_books = split_books(read_books(corpus))
        if not vocabulary.exists():
            train_vocabulary(train_books, vocabulary, PIECES, 6_000_000, seed=1)
        train, held = encode_books(train_books, vocabulary), encode_books(held_books, vocabulary)
        if cache is not None:
            np.save(cache / "train.npy", train)
            np.save(cache / "held.npy", held)
    return Data(train, held, sentence_starts(train, vocabulary))


def held_out_batches(held: Tokens, windows: int, rows: int) -> list[tuple[Ids, Ids]]:
    """Evenly spaced held-out windows, corrupted with a fixed seed: always the same evaluation."""
    rng = np.random.default_rng(2024)
    at = np.linspace(0, len(held) - WINDOW, windows).astype(np.int64)
    text = held[at[:, None] + np.arange(WINDOW)].astype(np.int64)
    inputs, targets = corrupt(text, Shape.of(WINDOW, DENSITY, MEAN_SPAN), FIRST_SENTINEL, rng)
    return [(inputs[i : i + rows], targets[i : i + rows]) for i in range(0, windows, rows)]


def span_mask(targets: Tensor) -> Tensor:
    """True at hidden text tokens: sentinels, </s> and padding are not counted."""
    mask: Tensor = (targets < PIECES) & (targets != EOS) & (targets != PAD)
    return mask


# --- optimizer --------------------------------------------------------------------------------------------


def orthogonalise(matrices: Tensor, steps: int = 4) -> Tensor:
    """Nearest semi-orthogonal matrices [n, rows, cols] by Newton-Schulz iteration in bfloat16 (Muon, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result


class Muon:
    """Momentum orthogonalised by Newton-Schulz (Jordan et al. 2024) for banks of matrices [..., rows, cols]."""

    def __init__(self, banks: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.1) -> None:
        self.banks, self.momentum, self.decay = banks, momentum, decay
        self.buffers = [torch.zeros_like(bank) for bank in banks]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update all banks; banks of equal matrix shape go through one batched iteration."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, bank in enumerate(self.banks):
            groups.setdefault(tuple(bank.shape[-2:]), []).append(index)
        for shape, members in groups.items():
            stacked = []
            for index in members:
                grad = self.banks[index].grad
                assert grad is not None
                self.buffers[index].lerp_(grad, 1 - self.momentum)
                stacked.append(grad.lerp(self.buffers[index], self.momentum).reshape(-1, *shape))
            updates = torch.split(orthogonalise(torch.cat(stacked)), [len(s) for s in stacked])
            for index, update in zip(members, updates, strict=True):
                bank = self.banks[index]
                bank.mul_(1 - rate * self.decay).add_(update.reshape(bank.shape), alpha=-rate)


# --- training ---------------------------------------------------------------------------------------------


@dataclass
class Options:
    """Recipe; rates are peaks."""

    minutes: float
    seed: int = 1
    muon_rate: float = 0.02
    embedding_rate: float = 5e-3
    other_rate: float = 3e-3
    warmup: int = 100
    hold: float = 0.1  # share of the time at the peak rate before the linear decay to 0
    short_until: float = 0.25  # share of the time with small batches of short windows
    dense_until: float = 0.6  # share of the time with more hidden text, which gives more targets a second
    dense: float = 0.2
    balance: float = 0.01
    z_loss: float = 1e-3


@dataclass
class Progress:
    """What has been done so far, and the running means since the last report."""

    steps: int = 0
    tokens: int = 0
    targets: int = 0
    minutes: float = 0.0
    losses: list[float] = field(default_factory=list)
    balances: list[float] = field(default_factory=list)


def rate_at(options: Options, done: float, step: int) -> float:
    """Share of the peak rate: linear warm-up by steps, hold, then linear decay to 0 by wall clock."""
    falling = min(1.0, (1 - done) / (1 - options.hold))
    return max(0.0, falling) * min(1.0, (step + 1) / options.warmup)


def pick_shape(options: Options, done: float, rng: np.random.Generator) -> tuple[int, Shape]:
    """Rows and shape of the next batch: short windows first, then mostly windows of 128 tokens."""
    density = options.dense if done < options.dense_until else DENSITY
    if done < options.short_until:
        return 64, Shape.of(64, density, MEAN_SPAN)
    window = int(rng.choice([128, 64, 32], p=[0.6, 0.25, 0.15]))
    return 8192 // window, Shape.of(window, density, MEAN_SPAN)


class Trainer:
    """Owns the fast model, its optimizers and the clock."""

    def __init__(self, data: Data, options: Options) -> None:
        self.data, self.options, self.progress = data, options, Progress()
        self.model = FastSwitch(Sizes(), options.seed)
        named = dict(self.model.named_parameters())
        self.muon = Muon([p for n, p in named.items() if n.endswith("bank")])
        other = [p for n, p in named.items() if not n.endswith("bank") and n != "shared"]
        self.adam = torch.optim.AdamW(
            [
                {"params": [self.model.shared], "peak": options.embedding_rate},
                {"params": other, "peak": options.other_rate},
            ],
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        )
        self.rng = np.random.default_rng(options.seed)
        self.first_step = 0
        self.tables: dict[Shape, tuple[Tensor, Tensor]] = {}

    def table(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Bucket tables of the encoder [S, S] and of the decoder [T, T]."""
        if shape not in self.tables:
            sizes = self.model.sizes
            self.tables[shape] = (
                bucket_table(sizes, shape.inputs, shape.inputs, bidirectional=True),
                bucket_table(sizes, shape.targets, shape.targets, bidirectional=False),
            )
        return self.tables[shape]

    def step(self, done: float) -> None:
        """One batch and one update."""
        rows, shape = pick_shape(self.options, done, self.rng)
        text = self.data.windows(rows, shape.window, self.rng)
        inputs, targets = (torch.from_numpy(a) for a in corrupt(text, shape, FIRST_SENTINEL, self.rng))
        loss, balance, z_loss = self.model(inputs, targets, *self.table(shape))
        (loss + self.options.balance * balance + self.options.z_loss * z_loss).backward()
        share = rate_at(self.options, done, self.progress.steps - self.first_step)
        self.muon.step(self.options.muon_rate * share)
        for group in self.adam.param_groups:
            group["lr"] = group["peak"] * share
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        self.progress.steps += 1
        self.progress.tokens += rows * shape.window
        self.progress.targets += rows * shape.noise
        self.progress.losses.append(loss.item())
        self.progress.balances.append(balance.item() / 4)

    @torch.no_grad()
    def held_out(self, windows: int = 256) -> float:
        """Quick held-out span loss with the fast model, for the log only."""
        shape, total, count = Shape.of(WINDOW, DENSITY, MEAN_SPAN), 0.0, 0
        for batch in held_out_batches(self.data.held, windows, 64):
            inputs, targets = (torch.from_numpy(a) for a in batch)
            losses = self.model.token_losses(inputs, targets, *self.table(shape))
            mask = span_mask(targets)
            total += float(losses[mask].sum())
            count += int(mask.sum())
        return total / count


def train(trainer: Trainer, threads: Threads, vocabulary: Path, checkpoint: Path, out: Path, early: float) -> None:
    """Train for the set minutes of wall clock, with a checkpoint every few; export early and at the end."""
    began = reported = saved = time.monotonic()
    before, limit = trainer.progress.minutes, 60 * trainer.options.minutes
    baseline = quick_baseline(trainer.data)
    print(f"unigram baseline {baseline:.3f}; parameters {count_parameters(trainer.model):,}", flush=True)
    exported = False
    while (done := (time.monotonic() - began) / limit) < 1:
        threads.follow()
        trainer.step(done)
        now = time.monotonic()
        trainer.progress.minutes = before + (now - began) / 60
        if now - reported > 30:
            report(trainer)
            reported = now
        if now - saved > 60:
            export(trainer, vocabulary, checkpoint)
            print(f"  held-out span loss {trainer.held_out():.3f} (baseline {baseline:.3f})", flush=True)
            saved = time.monotonic()
        if not exported and now - began > 60 * early:
            export(trainer, vocabulary, out)
            exported = True
    report(trainer)
    export(trainer, vocabulary, out)


def report(trainer: Trainer) -> None:
    """One line of running means; the balance is 1 when all experts are used evenly."""
    p = trainer.progress
    print(
        f"{p.minutes:6.1f} min  step {p.steps}  tokens {p.tokens / 1e6:.1f} M  "
        f"loss {np.mean(p.losses):.3f}  balance {np.mean(p.balances):.2f}",
        flush=True,
    )
    p.losses.clear()
    p.balances.clear()


def count_parameters(model: nn.Module) -> int:
    """Number of trained values, shared ones once."""
    return sum(p.numel() for p in model.parameters())


# --- export -----------------------------------------------------------------------------------------------


def configuration(sizes: Sizes) -> dict[str, Any]:
    """config.json, with the keys of the published Switch configurations."""
    return {
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "model_type": "switch_transformers",
        "vocab_size": sizes.vocab,
        "d_model": sizes.d_model,
        "d_kv": sizes.d_kv,
        "d_ff": sizes.d_ff,
        "num_heads": sizes.heads,
        "num_layers": sizes.layers,
        "num_decoder_layers": sizes.layers,
        "num_sparse_encoder_layers": sizes.layers // 2,
        "num_sparse_decoder_layers": sizes.layers // 2,
        "encoder_sparse_step": 2,
        "decoder_sparse_step": 2,
        "num_experts": sizes.experts,
        "expert_capacity": 64,
        "router_bias": False,
        "router_dtype": "float32",
        "router_jitter_noise": 0.01,
        "router_ignore_padding_tokens": False,
        "router_aux_loss_coef": 0.001,
        "router_z_loss_coef": 0.001,
        "add_router_probs": False,
        "relative_attention_num_buckets": sizes.buckets,
        "relative_attention_max_distance": sizes.max_distance,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": sizes.epsilon,
        "initializer_factor": 1.0,
        "dense_act_fn": "relu",
        "feed_forward_proj": "relu",
        "is_gated_act": False,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "use_cache": True,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "decoder_start_token_id": PAD,
        "dtype": "bfloat16",
    }


def tokenizer_files() -> dict[str, dict[str, Any]]:
    """tokenizer_config.json, special_tokens_map.json and generation_config.json."""
    sentinels = [f"<extra_id_{n}>" for n in range(SENTINELS)]
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "T5Tokenizer",
            "model_max_length": 512,
            "extra_ids": SENTINELS,
            "additional_special_tokens": sentinels,
            **special,
        },
        "special_tokens_map.json": {"additional_special_tokens": sentinels, **special},
        "generation_config.json": {
            "decoder_start_token_id": PAD,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
    }


def export(trainer: Trainer, vocabulary: Path, out: Path) -> None:
    """Write the Hugging Face folder aside, then move file by file, so that readers never see half a file."""
    from safetensors.torch import save_file

    fresh = out / f".fresh-{os.getpid()}"
    fresh.mkdir(parents=True, exist_ok=True)
    save_file(export_tensors(trainer.model), fresh / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(vocabulary, fresh / "spiece.model")
    files = {"config.json": configuration(trainer.model.sizes), **tokenizer_files()}
    p = trainer.progress
    figures = {"steps": p.steps, "raw_tokens": p.tokens, "span_tokens": p.targets, "wall_minutes": round(p.minutes, 1)}
    files["training.json"] = {"training": figures}
    for name, content in files.items():
        (fresh / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    for path in sorted(fresh.iterdir()):
        path.chmod(0o644)
        path.replace(out / path.name)
    fresh.rmdir()
    print(f"  exported to {out.name} after {p.minutes:.1f} minutes", flush=True)


def resume(trainer: Trainer, folder: Path, *, decoder_only: bool) -> None:
    """Take weights and counts from an exported folder; momentum starts anew, so the warm-up is repeated."""
    from safetensors.torch import load_file

    import_tensors(trainer.model, load_file(folder / "model.safetensors"), decoder_only=decoder_only)
    figures = json.loads((folder / "training.json").read_text())["training"]
    p = trainer.progress
    p.steps, p.tokens, p.targets = figures["steps"], figures["raw_tokens"], figures["span_tokens"]
    p.minutes = figures["wall_minutes"]
    trainer.first_step = p.steps
    trainer.rng = np.random.default_rng([trainer.options.seed, p.steps])


# --- evaluation -------------------------------------------------------------------------------------------


def unigram_losses(train: Tokens) -> Tensor:
    """Negative log probability of each piece, counted on the training text with one added to each count."""
    counts = np.bincount(train, minlength=PIECES).astype(np.float64) + 1
    counts[[PAD, EOS]] = 1
    return torch.from_numpy(-np.log(counts / counts.sum()))


def quick_baseline(data: Data, windows: int = 256) -> float:
    """Unigram loss on the span tokens of the quick held-out windows."""
    losses = unigram_losses(data.train)
    found = [torch.from_numpy(targets) for _, targets in held_out_batches(data.held, windows, 64)]
    targets = torch.cat(found)
    return float(losses[targets[span_mask(targets)]].mean())


@torch.no_grad()
def evaluate(data: Data, folder: Path, windows: int = 1024) -> dict[str, Any]:
    """Held-out span loss of the folder by the unmodified transformers model, baseline and expert use."""
    from transformers import SwitchTransformersForConditionalGeneration

    # float32 arithmetic on the bfloat16 weights: what the figures say is then the same on every machine.
    model = SwitchTransformersForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.train(mode=False)
    use: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith("mlp.router"):
            module.register_forward_hook(_count_experts(use, name.removesuffix(".mlp.router")))
    unigram = unigram_losses(data.train)
    loss = base = 0.0
    count = unknown = 0
    for batch in held_out_batches(data.held, windows, 32):
        inputs, targets = (torch.from_numpy(a) for a in batch)
        begun = fn.pad(targets, (1, 0))[:, :-1]
        logits = model(input_ids=inputs, decoder_input_ids=begun).logits.float()
        mask = span_mask(targets)
        loss += float(fn.cross_entropy(logits[mask], targets[mask], reduction="sum"))
        base += float(unigram[targets[mask]].sum())
        count += int(mask.sum())
        unknown += int((targets[mask] == UNK).sum())
    return {
        "held_out_windows": windows,
        "window_tokens": WINDOW,
        "noise_density": DENSITY,
        "mean_span": MEAN_SPAN,
        "span_tokens": count,
        "unknown_span_tokens": unknown,
        "span_loss": round(loss / count, 4),
        "unigram_loss": round(base / count, 4),
        "below_unigram": round((base - loss) / count, 4),
        "parameters": count_parameters(model),
        "training_stream_tokens": len(data.train),
        "held_out_stream_tokens": len(data.held),
        "expert_use": {name: [round(float(v), 3) for v in counts / counts.sum()] for name, counts in use.items()},
    }


def _count_experts(use: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Forward hook on a router: its first output is one-hot [batch, length, experts]."""

    def hook(_module: nn.Module, _args: object, output: tuple[Tensor, ...]) -> None:
        chosen = output[0].reshape(-1, output[0].shape[-1]).double().sum(0)
        use[name] = use.get(name, torch.zeros_like(chosen)) + chosen

    return hook


def write_figures(folder: Path, figures: dict[str, Any]) -> None:
    """Add the evaluation to the folder's training.json and print it."""
    target = folder / "training.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    known["evaluation"] = figures
    target.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def main() -> None:
    """Read the arguments, then train or evaluate."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("corpus", type=Path, help="classic_books.txt.xz")
    parser.add_argument("--out", type=Path, required=True, help="Hugging Face folder to write or to evaluate")
    parser.add_argument("--work", type=Path, help="scratch folder for the vocabulary, ids and checkpoints")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--early-export", type=float, default=10.0, help="minutes until the first export")
    parser.add_argument("--resume", type=Path, help="exported folder to go on from")
    parser.add_argument("--decoder-only", action="store_true", help="of --resume take embedding and decoder only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate", action="store_true")
    args = parser.parse_args()
    tune_process()
    threads = Threads(args.threads)
    if args.evaluate:
        data = load_data(args.corpus, args.out / "spiece.model", args.work)
        write_figures(args.out, evaluate(data, args.out))
        return
    if args.work is None:
        parser.error("training needs --work")
    args.work.mkdir(parents=True, exist_ok=True)
    vocabulary = args.work / "spiece.model"
    if args.resume is not None:
        shutil.copyfile(args.resume / "spiece.model", vocabulary)
    data = load_data(args.corpus, vocabulary, args.work)
    trainer = Trainer(data, Options(minutes=args.minutes, seed=args.seed))
    if args.resume is not None:
        resume(trainer, args.resume, decoder_only=args.decoder_only)
    train(trainer, threads, vocabulary, args.work / "checkpoint", args.out, args.early_export)
    write_figures(args.out, evaluate(data, args.out))


if __name__ == "__main__":
    main()
