"""The command line: one verb per room.

A verb's room is imported only when the verb is used, so `fathom --help` and `fathom plan` start without torch. The rooms bring their
own commands (fathom/ROOM/command.py); this file mounts them, hands them what their floor may not reach, reads the environment (no
other file does), and turns a UserError into one line and exit code 2.
"""
from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .errors import UserError
from .heap import keep_freed_memory

HELP_AT_ALL = ("-h", "--help", "help")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs the verb named by the first argument. Exits 2 on a user's error, 130 on Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    keep_freed_memory()
    try:
        if not arguments or arguments[0] in HELP_AT_ALL:
            _overview()
        elif arguments[0] in ("-V", "--version"):
            from . import __version__

            print(f"fathom {__version__}")
        elif arguments[0] not in VERBS:
            raise UserError("verb", arguments[0], f"one of {', '.join(VERBS)}", "fathom --help says what each does")
        else:
            app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
                              context_settings={"help_option_names": ["-h", "--help"]})
            app.callback()(lambda: None)  # keeps the verb's name in usage lines when it is the only one
            VERBS[arguments[0]][1](app)
            app(arguments, prog_name="fathom")
    except UserError as e:
        print(f"fathom: {e.one_line()}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _overview() -> None:
    print("fathom: the DeepSeek-V4 system, whole\n\nUsage: fathom VERB [OPTIONS]\n")
    for verb, (about, _) in VERBS.items():
        print(f"  {verb:10}{about}")
    print('\nExamples:\n  fathom demo\n  fathom generate --model runs/demo "def fib("\n  fathom plan v4-pro\n\nfathom VERB --help says more.')


def _generate(app: typer.Typer) -> None:
    @app.command("generate")
    def generate(
        prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from standard input.")],
        model: Annotated[Path, typer.Option(help="Run or checkpoint folder.")] = Path("runs/latest"),
        max_tokens: Annotated[int, typer.Option(help="Longest continuation, in tokens.")] = 256,
        temperature: Annotated[float, typer.Option(help="0 (always the likeliest) to 2.")] = 0.8,
        top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that make up this probability.")] = 1.0,
        top_k: Annotated[int, typer.Option(help="Sample from so many likeliest tokens; 0 for all.")] = 0,
        min_p: Annotated[float, typer.Option(help="Leave out tokens less likely than this fraction of the likeliest.")] = 0.0,
        seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
        stop: Annotated[list[str] | None, typer.Option(help="End before this text (\\n is a line break); may be repeated.")] = None,
        dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; bfloat16 where the device has it.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, or an accelerator.")] = "auto",
        kernels: Annotated[str, typer.Option(help="auto, reference, or one of amx, avx512, avx512f, avx2, portable.")] = "auto",
        weights_budget: Annotated[str | None, typer.Option(help="Memory for weights, such as 4GB; a larger model reads experts as needed.")] = None,
        bos: Annotated[bool, typer.Option("--bos/--no-bos", help="Put the begin-of-sentence token in front.")] = True,
        quiet: Annotated[bool, typer.Option("--quiet", help="Print the continuation alone.")] = False,
    ) -> None:
        """Continue a text, streamed as it forms.

        Examples:

          fathom generate --model runs/demo "def fib("

          fathom generate --model runs/demo --temperature 0 --max-tokens 64 --stop "\\n\\n" "class Stack:"
        """
        text = sys.stdin.read() if prompt == "-" else prompt
        session = _load(model, device, dtype, quiet, kernels, weights_budget)
        if not quiet:
            print(text, end="", flush=True)
        for piece in session.stream(text, max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed,
                                    stop=[s.encode().decode("unicode_escape") if s.isascii() else s for s in stop or ()], bos=bos):
            print(piece, end="", flush=True)
        print()


def _load(folder: Path, device: str, precision: str | None, quiet: bool, kernels: str = "auto", weights_budget: str | None = None,
          **more: Any) -> Any:
    """A session, with a progress bar while a large model is read. more: for session.load."""
    from rich.progress import Progress

    from .plan.units import parse_bytes
    from .session import load

    budget = None if weights_budget is None else parse_bytes(weights_budget, "weights-budget")
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task(f"loading {folder}", total=None)
        return load(folder, device=device, precision=precision, kernels=kernels, weights_budget=budget,
                    say=lambda line: bar.console.print(line, highlight=False),
                    progress=lambda done, total: bar.update(task, completed=done, total=total), **more)


def _train(app: typer.Typer, verb: str) -> None:
    from .train.command import add_commands

    both = typer.Typer()
    add_commands(both, _complete, _answer)
    app.registered_commands += [c for c in both.registered_commands if c.name == verb]


def _complete(run: Path, prompt: str, max_tokens: int) -> str:
    """What the demo shows: a sampled continuation by the run's newest checkpoint."""
    from .session import load

    return load(run).generate(prompt, max_tokens=max_tokens, temperature=0.6, top_p=0.95, seed=1)


def _answer(run: Path, prompts: Sequence[Sequence[int]], max_tokens: int) -> Iterator[list[int]]:
    """How an SFT run is measured: the likeliest continuations by the run's newest checkpoint, in token ids, many computed at once."""
    from .engine import Request, Sampling, Ticket
    from .engine.engine import SEQUENCES
    from .session import load

    session = load(run)
    stop, asked = frozenset({session.tokenizer.eos_id}), deque[Ticket]()
    for number, prompt in enumerate(prompts, 1):
        asked.append(session.engine.submit(Request(tuple(prompt), max_tokens, Sampling(temperature=0), stop)))
        while asked and (number == len(prompts) or len(asked) > 2 * SEQUENCES):
            yield [output.token_id for output in asked.popleft() if output.token_id >= 0]


def _plan(app: typer.Typer) -> None:
    from .plan.command import plan_command

    def measure() -> Any:
        from .bench.calibrate import calibrate

        return calibrate()

    app.command("plan")(plan_command(measure))


def _convert(app: typer.Typer) -> None:
    from .checkpoint.command import convert_command

    app.command("convert")(convert_command)


def _eval(app: typer.Typer) -> None:
    from .eval.command import HELP, make_command

    app.command("eval", help=HELP)(make_command(_open_local, lambda: os.environ.get("FATHOM_API_KEY", "")))


def _open_local(folder: Path) -> Any:
    """A checkpoint as the evaluation asks it."""
    from .engine.engine import SEQUENCES
    from .eval.runner import Opened

    session = _load(folder, "auto", None, quiet=False)
    session.engine.start()  # so that calls from several threads are computed together

    def chat(messages: list[dict[str, Any]], *, max_tokens: int, temperature: float | None) -> str:
        options = {} if temperature is None else {"temperature": temperature}
        return session.chat(messages, thinking=False, max_tokens=max_tokens, **options)["content"]

    return Opened(folder.resolve().name, chat, at_once=SEQUENCES)


def _doctor(app: typer.Typer) -> None:
    @app.command("doctor")
    def doctor(
        device: Annotated[str, typer.Option(help="auto, cpu, or an accelerator.")] = "auto",
        as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
        build: Annotated[bool, typer.Option("--build", help="First compile the native kernels (needs a C++ compiler).")] = False,
    ) -> None:
        """Say what this installation can do: device, precisions, versions, and which kernel serves which operator.

        Examples:

          fathom doctor

          fathom doctor --json

          fathom doctor --build
        """
        from .doctor import build_kernels, examine, show

        if build:
            build_kernels(lambda line: print(line, file=sys.stderr))
        found = examine(device)
        if as_json:
            print(json.dumps(found, indent=1))
        else:
            show(found, Console())


def _serve(app: typer.Typer) -> None:
    try:
        from .server.command import serve_command
    except ModuleNotFoundError as missing:
        raise _without_extra("serve", "serve", missing) from None
    open_model = lambda folder, **options: _load(folder, quiet=False, **options)
    app.command("serve")(serve_command(lambda: os.environ.get("FATHOM_DATABASE"), _find_model, open_model))


def _find_model(runs: Path, device: str) -> Path:
    """What is served where no model is named; trained first where there is none."""
    from .train.command import chat_model
    from .train.served import served_model

    console = Console()
    return served_model(runs, lambda: chat_model(_answer, device=device, runs=runs, console=console),
                        lambda line: console.print(line, highlight=False, soft_wrap=True))


def _chat(app: typer.Typer) -> None:
    from .chat.command import HELP, chat_command

    open_model = lambda folder, device, dtype, kernels: _load(folder, device, dtype, quiet=False, kernels=kernels)
    app.command("chat", help=HELP)(chat_command(open_model, lambda: os.environ.get("FATHOM_API_KEY", "")))


def _keys(app: typer.Typer) -> None:
    try:
        from .server.keys_command import keys_app
    except ModuleNotFoundError as missing:
        raise _without_extra("keys", "serve", missing) from None
    app.add_typer(keys_app(lambda: os.environ.get("FATHOM_DATABASE")), name="keys")


def _bills(app: typer.Typer, verb: str) -> None:
    try:
        from .server.bill_command import bill_command, price_command
    except ModuleNotFoundError as missing:
        raise _without_extra(verb, "serve", missing) from None
    make = bill_command if verb == "bill" else price_command
    app.command(verb)(make(lambda: os.environ.get("FATHOM_DATABASE")))


def _without_extra(verb: str, extra: str, missing: ModuleNotFoundError) -> UserError:
    return UserError(verb, None, f"needs the module {missing.name}", f"pip install 'fathom[{extra}]'")


def _bench(app: typer.Typer) -> None:
    from .bench.command import bench_command

    app.command("bench")(bench_command)


VERBS: dict[str, tuple[str, Callable[[typer.Typer], None]]] = {
    "demo": ("train a small model on Python's own sources, measure it, let it write code", lambda app: _train(app, "demo")),
    "train": ("train a model from a recipe, or go on with a run", lambda app: _train(app, "train")),
    "generate": ("continue a text with a model", _generate),
    "plan": ("what a model is, takes and costs", _plan),
    "convert": ("rewrite a checkpoint in another precision", _convert),
    "eval": ("score a model or an endpoint with the YZ Index", _eval),
    "chat": ("talk to a model, served or on this machine", _chat),
    "serve": ("serve a model: the official API, and a page to talk to it", _serve),
    "keys": ("make, limit and revoke API keys; give their accounts money", _keys),
    "bill": ("what the keys used and what it costs", lambda app: _bills(app, "bill")),
    "price": ("the same traffic at other prices", lambda app: _bills(app, "price")),
    "bench": ("measure speed beside other engines", _bench),
    "doctor": ("what this installation can do, and why", _doctor),
}

if __name__ == "__main__":
    main()
