"""Train, export and evaluate the demo Switch Transformer.

    python train.py CORPUS --work SCRATCH --out FOLDER --minutes 60      # train and export
    python train.py CORPUS --out FOLDER --evaluate                       # recompute the figures of a folder

The folder it writes loads in ``transformers`` (SwitchTransformersForConditionalGeneration) and names its tensors
as the original checkpoints do.  The evaluation uses the unmodified ``transformers`` model, never the fast one.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np

from cores import Threads, tune_process
from evaluation import evaluate, quick_baseline, write_figures
from folder import export, resume
from trainer import Options, Trainer, count_parameters
from windows import load_data


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
