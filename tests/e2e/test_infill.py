"""From a checkpoint on disk to filled blanks, through the installed commands and the library, on a real engine."""

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints import reference
from conftest import installed
from pointsman import DecodingOptions, Infiller
from pointsman.bundle import names, read_manifest
from pointsman.errors import BundleError, TokenizerError

COMMAND = str(Path(sys.executable).with_name("pointsman"))
TEXT = "The <extra_id_0> waits by <extra_id_1> box."
TEXTS = (TEXT, "<extra_id_4>", "un<extra_id_2>able\n <extra_id_0> at noon, <extra_id_1>")


def pointsman(*arguments, **keywords):
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", check=False, **keywords
    )


@pytest.fixture(scope="module")
def infiller(tiny_bundle):
    return Infiller.load(tiny_bundle, device="cpu", threads=2)


@pytest.fixture(scope="module")
def network(tiny_checkpoint):
    return reference(tiny_checkpoint)


def test_the_command_prints_what_the_library_gives(tiny_bundle, infiller):
    done = pointsman("infill", tiny_bundle, *TEXTS, "--num-beams", 3, "--num-return-sequences", 2, "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert (document["variant"], document["device"]) == ("fused-float32", "cpu")
    expected = infiller.infill_batch(TEXTS, num_beams=3, num_return_sequences=2)
    for text, result, fills in zip(TEXTS, document["results"], expected, strict=True):
        assert result["text"] == text
        assert [fill["text"] for fill in result["fills"]] == [fill.text for fill in fills]
        assert [fill["score"] for fill in result["fills"]] == pytest.approx([fill.score for fill in fills], abs=1e-4)


def test_the_command_without_json(tiny_bundle, infiller):
    done = pointsman("infill", tiny_bundle, TEXT, "--threads", 2)
    (fill,) = infiller.infill(TEXT)
    assert done.returncode == 0
    assert done.stdout.startswith(fill.text + "\n    score ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def job(tiny_bundle, tmp_path_factory):
    """A command without its output, its input, and what one run of it writes."""
    folder = tmp_path_factory.mktemp("job")
    texts, whole = folder / "texts", folder / "whole"
    texts.write_text("".join(f"{TEXT} {'word ' * (number % 7)}\n" for number in range(200)))
    command = [COMMAND, "infill", str(tiny_bundle), "--input", str(texts), "--jsonl", "--batch-size", "2", "--output"]
    assert subprocess.run([*command, str(whole)], stderr=subprocess.DEVNULL, check=False).returncode == 0
    return command, texts, whole.read_bytes()


def begun(command, output, more=0):
    """A run that has written some records."""
    process = subprocess.Popen([*command, str(output)], stderr=subprocess.PIPE, text=True)
    enough = (output.stat().st_size if output.exists() else 0) + 3000 + more
    while not output.exists() or output.stat().st_size < enough:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def resumed(command, output, *options):
    return subprocess.run([*command, str(output), "--resume", *options], capture_output=True, text=True, check=False)


def last(done):
    """What was said at the end; where a machine is slow, there is progress before."""
    return done.stderr.splitlines()[-1]


def test_a_file_of_lines_whose_run_is_killed_and_resumed(job, tmp_path):
    """After SIGKILL in the middle of a record, too, the output is that of one run."""
    (command, _, whole), output = job, tmp_path / "records"
    process = begun(command, output)
    process.kill()
    process.communicate()
    left = output.read_bytes()
    assert whole.startswith(left)
    assert left != whole
    output.write_bytes(left[:-7])
    done = resumed(command, output)
    assert (done.returncode, output.read_bytes()) == (0, whole)
    assert last(done).startswith(f"pointsman: 200 of 200 lines ({left.count(10) - (left[-1] == 10)} there already), ")
    assert last(resumed(command, output)) == "pointsman: 200 of 200 lines, all there already: done"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_file_of_lines_whose_run_is_stopped_says_how_many_records_there_are(job, tmp_path, number, code):
    """Wherever the signal comes: again and again, until all is done."""
    (command, _, whole), output = job, tmp_path / "records"
    for more in (0, 777, 10_000):
        process = begun([*command[:-1], "--resume", "--output"] if output.exists() else command, output, more)
        process.send_signal(number)
        said = process.communicate()[1].splitlines()[-1]
        assert process.returncode == code
        found = re.fullmatch(r"pointsman: interrupted after (\d+) lines(, and \d+ more are filled)?; go on .*", said)
        assert int(found[1]) == output.read_bytes().count(10)
    assert resumed(command, output).returncode == 0
    assert output.read_bytes() == whole


def test_every_run_goes_further_however_soon_it_is_killed(job, tmp_path):
    """Killed as soon as anything is filled."""
    output, before = tmp_path / "records", set[int]()
    command = [*job[0][:-2], "8", "--resume", "--output"]
    subprocess.run([*command, str(output)], stderr=subprocess.DEVNULL, check=False)
    whole = output.read_bytes()
    output.unlink()
    for _ in range(4):
        process = subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL)
        while not filled(output) > before:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        before = filled(output)
        assert len(before) < 200
    done = resumed(command, output)
    assert (done.returncode, output.read_bytes()) == (0, whole)


def filled(output):
    """Numbers of lines that have records, or are filled and wait for an earlier one's."""
    files = [file for file in (output, output.with_name("records.job")) if file.exists()]
    lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
    return {json.loads(line)["line"] for line in lines if line.startswith(b'{"line"') and line.endswith(b"\n")}


def test_an_output_that_another_process_writes(job, tmp_path):
    (command, _, whole), output = job, tmp_path / "records"
    process = begun(command, output)
    process.send_signal(signal.SIGSTOP)
    second = resumed(command, output)
    process.send_signal(signal.SIGCONT)
    process.communicate()
    assert second.returncode == 2
    assert second.stderr.startswith(f"pointsman: another process is writing {output}; wait for it")
    assert (process.returncode, output.read_bytes()) == (0, whole)


def test_a_job_that_was_killed_does_not_go_on_with_other_lines_or_options(job, tmp_path):
    """Far before the last line that it had answered; a line that it has not answered may be another."""
    (command, texts, _), output, other = job, tmp_path / "records", tmp_path / "texts"
    process = begun(command, output, 20_000)
    process.kill()
    process.communicate()
    left = output.read_bytes()
    content = texts.read_text().splitlines(keepends=True)
    other.write_text("".join([content[0], "Another <extra_id_0>.\n", *content[2:]]))
    done = resumed([str(other) if part == str(texts) else part for part in command], output)
    assert (done.returncode, output.read_bytes()) == (2, left)
    assert last(done).startswith(f"pointsman: line 2 of the input has changed since {output} answered it; ")
    done = resumed(command, output, "--num-beams", "2")
    assert (done.returncode, output.read_bytes()) == (2, left)
    assert "was begun with --num-beams 1, and this run has --num-beams 2; " in done.stderr
    other.write_text("".join([*content[:-1], "Another <extra_id_0>.\n", "And <extra_id_0>.\n"]))
    done = resumed([str(other) if part == str(texts) else part for part in command], output)
    assert last(done).startswith("pointsman: 201 of 201 lines (")


def test_a_disk_that_is_full(job, tmp_path):
    """The record that did not fit is cut off, and the same command goes on."""
    (command, _, whole), output = job, tmp_path / "records"

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))

    done = subprocess.run([*command, str(output)], capture_output=True, text=True, check=False, preexec_fn=little_room)
    assert (done.returncode, output.stat().st_size) == (2, 8000)
    assert last(done) == (
        f"pointsman: cannot write {output} (File too large); free some space, then go on with --resume"
    )
    assert resumed(command, output).returncode == 0
    assert output.read_bytes() == whole


def test_a_pipe_without_reading_ahead(tiny_bundle):
    with subprocess.Popen(
        [COMMAND, "infill", tiny_bundle, "--input", "-", "--jsonl", "--batch-size", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    ) as process:
        for number in (1, 2):
            process.stdin.write(f"{TEXT}\n")
            assert json.loads(process.stdout.readline())["line"] == number


def test_lines_from_a_pipe(tiny_bundle):
    done = pointsman(
        "infill", tiny_bundle, "-", "--json", "--batch-size", 2, input="\n".join(TEXTS[:2]) + "\n\n" + TEXT
    )
    assert [result["text"] for result in json.loads(done.stdout)["results"]] == [*TEXTS[:2], "", TEXT]


def test_filling_needs_no_training_framework(tiny_bundle):
    """The command runs where torch, transformers and onnx cannot be imported."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx'))); "
        "from pointsman.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, "infill", tiny_bundle, TEXT], capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout


def test_inspect_a_real_bundle(tiny_bundle):
    done = pointsman("inspect", tiny_bundle, "--json", "--device", "cpu")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert document["damage"] is None
    assert document["choice"]["variant"] == "fused-float32"
    parity = document["variants"]["fused-float32"]["parity"]
    assert parity["max_error"] < parity["tolerance"]


@pytest.mark.parametrize("command", [("inspect",), ("infill", TEXT)])
def test_one_flipped_bit_is_noticed(tiny_bundle, tmp_path, command):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    weights = bundle / "variants" / "float32" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    verb, *texts = command
    done = pointsman(verb, bundle, *texts)
    assert done.returncode == 2
    assert done.stderr == (
        f"pointsman: {bundle} is damaged: variants/float32/weights.bin was changed (its sha256 differs); "
        "export the bundle again\n"
    )


def test_a_reader_that_goes_away_is_no_error(tiny_bundle, tiny_checkpoint, tmp_path):
    """What was to be done is done all the same."""
    bundle, exported = shutil.copytree(tiny_bundle, tmp_path / "copy"), tmp_path / "exported"
    for command in (
        [COMMAND, "inspect", bundle],
        [installed("pointsman-calib"), "quantize", bundle, "--scheme", "int8"],
        [installed("pointsman-export"), "bundle", tiny_checkpoint, "-o", exported, "--form", "fused"],
    ):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            process.stdout.close()
            errors = process.stderr.read()
        assert process.returncode == 141
        assert "Traceback" not in errors
        assert "BrokenPipe" not in errors
    assert "fused-int8" in read_manifest(bundle).variants
    assert read_manifest(exported).variants


def test_an_interrupt_is_one_line(tiny_bundle):
    with subprocess.Popen(
        [COMMAND, "infill", tiny_bundle, "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        process.stdin.write(b"\n" * (1 << 20))  # more than a pipe holds: returns once the command is reading
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert (process.returncode, errors) == (130, b"pointsman: interrupted\n")


@pytest.mark.parametrize("module", ["pointsman.errors", "pointsman.cli.main", "onnxruntime"])
def test_an_interrupt_while_modules_are_imported_is_one_line(tiny_bundle, module):
    """The signal comes just when a module is looked for, in its package's first moments or a library's."""
    code = f"""if True:
        import signal, sys
        import pointsman_commands

        class Interrupting:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    signal.raise_signal(signal.SIGINT)

        sys.meta_path.insert(0, Interrupting())
        sys.exit(pointsman_commands.runtime())
    """
    done = subprocess.run(
        [sys.executable, "-c", code, "infill", tiny_bundle, TEXT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "pointsman: interrupted\n")


@pytest.mark.parametrize("options", [{}, {"num_beams": 4, "num_return_sequences": 4}], ids=["greedy", "beams"])
@pytest.mark.parametrize("text", TEXTS)
def test_unconstrained_ids_are_those_of_transformers(infiller, network, text, options):
    ids = infiller.tokenizer.encode(text)
    expected = network.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, **options)
    (generations,) = infiller.model.generate([ids], DecodingOptions(max_new_tokens=16, **options))
    for generation, row in zip(generations, expected.tolist(), strict=True):
        assert list(generation.token_ids) == row[1 : 1 + len(generation.token_ids)]
        assert set(row[1 + len(generation.token_ids) :]) <= {0}


def test_candidate_scores_are_those_of_transformers(infiller, network):
    tokenizer = infiller.tokenizer
    candidates = [["driver", "the"], ["pointsman", "a"], ["goods wagon", "every vivid"]]
    for candidate, score in zip(candidates, infiller.score(TEXT, candidates), strict=True):
        spans = [tokenizer.encode(span, add_eos=False) for span in candidate]
        s0, s1, s2 = map(tokenizer.sentinel_id, range(3))
        target = torch.tensor([[s0, *spans[0], s1, *spans[1], s2, tokenizer.eos_id]])
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([tokenizer.encode(TEXT)]), labels=target).logits
        logprobs = logits.log_softmax(-1).gather(2, target[:, :, None])
        assert score == pytest.approx(float(logprobs.sum()), abs=1e-3)


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_ends_as_infill_does(infiller, text):
    last = {span.index: span for span in infiller.stream(text)}
    (fill,) = infiller.infill(text)
    assert [span.text for span in fill.spans] == [last[span.index].text for span in fill.spans]
    np.testing.assert_allclose(
        [span.score for span in fill.spans], [last[span.index].score for span in fill.spans], atol=1e-5
    )


def test_an_infiller_says_what_it_runs(infiller):
    choice = infiller.model.choice
    assert (choice.variant, choice.device) == ("fused-float32", "cpu")
    assert choice.reason == "device cpu was asked for; fused-float32 is the fastest here on cpu without quantization"


def test_threads_are_the_engines(infiller):
    sessions = infiller.model.backend.encoder, infiller.model.backend.decoder
    assert [session.get_session_options().intra_op_num_threads for session in sessions] == [2, 2]


def test_a_vocabulary_that_was_changed_or_removed(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = bundle / names.TOKENIZER / names.TOKENIZER_JSON
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"tokenizer/tokenizer.json has [0-9]+ bytes instead"):
        Infiller.load(bundle, device="cpu")
    path.unlink()
    with pytest.raises(TokenizerError, match=r"cannot read .*tokenizer"):
        Infiller.load(bundle, device="cpu", verify=False)


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_stderr_that_takes_nothing(tiny_bundle, tmp_path, stderr):
    """A job goes on; what it would say is lost."""
    output = tmp_path / "filled"
    (tmp_path / "texts").write_text("A <extra_id_0> day.\n" * 3)
    line = f'"$0" infill "$1" --input "$2" --plain --jsonl --output "$3" {stderr}'
    command = ["bash", "-c", line, COMMAND, tiny_bundle, tmp_path / "texts", output]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert len(output.read_text().splitlines()) == 3
