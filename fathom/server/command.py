"""`fathom serve`: opens a model and serves it until it is told to stop.

Everything that can be wrong is found before the model is read: the port is taken, the folder claimed, the prices checked first. The
first time, a key is made for whoever sits at this machine; its secret is kept in the service's folder, readable for its owner alone,
so that the next start can print it again. All other secrets are shown once and never kept.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fathom.engine import Engine
from fathom.engine.cache.disk import DiskStore
from fathom.engine.fingerprint import fingerprint
from fathom.engine.journal import FileJournal
from fathom.errors import UserError
from fathom.prices import load_prices
from fathom.server.books import Accounts
from fathom.server.database import FOLDER
from fathom.server.listening import Place, run
from fathom.server.service import Service, service_folders
from fathom.server.settings import Settings
from fathom.session import Session, model_folder

LOCAL_KEY, LOCAL_ACCOUNT = "local.key", "local"
HELP = """Serve a model: the official API, Anthropic's, and a page to talk to it.

Without --model it takes the newest run that has learned to converse, else the newest run; if there is none, it trains one first. Prints
the address, a key and a line to try it with. Ctrl-C lets answers under way end, then stops; everything that was counted is on disk.

Examples:

  fathom serve

  fathom serve --model runs/demo --port 8080

  fathom serve --model DeepSeek-V4-Flash --name deepseek-v4-flash --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
"""
Load = Callable[..., Session]
Find = Callable[[Path, str], Path]


def serve_command(from_environment: Callable[[], str | None], find_model: Find, open_model: Load) -> Callable[..., None]:
    """The function to mount as "serve".

    Args:
        from_environment: the database's URL where no --database is given.
        find_model: (folder of the runs, device) → the model to serve where no --model is given; makes one if there is none.
        open_model: session.load with its arguments by name; weights_budget as text.
    """
    def command(
        model: Annotated[Path | None, typer.Option(help="Run or checkpoint folder [the newest run, or one that is trained first].")] = None,
        runs: Annotated[Path, typer.Option(help="Folder of the runs, where no --model is given.")] = Path("runs"),
        host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's own open it to the network.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8000,
        folder: Annotated[Path, typer.Option("--folder", "--data", help="Everything the service keeps.")] = FOLDER,
        database: Annotated[str | None, typer.Option(help="Any SQLAlchemy URL, if not the folder's SQLite file [FATHOM_DATABASE].")] = None,
        prices: Annotated[list[Path] | None, typer.Option(help="TOML file with [[price]] rows, over the shipped ones; may be repeated.")] = None,
        name: Annotated[str | None, typer.Option(help="What the model is called, and billed as [the folder's name].")] = None,
        alias: Annotated[list[str] | None, typer.Option(help="Another name clients may ask for, such as 'claude-*'; may be repeated.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, or an accelerator.")] = "auto",
        dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or official; bfloat16 where the device has it.")] = None,
        kernels: Annotated[str, typer.Option(help="auto, reference, or one of amx, avx512, avx512f, avx2, portable.")] = "auto",
        weights_budget: Annotated[str | None, typer.Option(help="Memory for weights, such as 4GB; a larger model reads experts as needed.")] = None,
        sequences: Annotated[int, typer.Option(min=1, help="Answers computed at once; more wait.")] = 64,
        memory: Annotated[float | None, typer.Option(help="GiB for answers under way [a quarter of what is free; half on an accelerator].")] = None,
        cache: Annotated[float, typer.Option(min=0, help="GiB on disk for prompts seen before; 0 for none.")] = 4.0,
        speculate: Annotated[str, typer.Option(help="Draft with the MTP block: auto (while it pays), always or off.")] = "auto",
        most_requests: Annotated[int, typer.Option(min=1, help="Requests at once; the next one gets 503.")] = 256,
        most_output: Annotated[int, typer.Option(min=1, help="Longest answer in tokens, whatever max_tokens says.")] = 393216,
        body_mib: Annotated[float, typer.Option(help="Largest request body.")] = 32.0,
        head_seconds: Annotated[float, typer.Option(help="How long the head of a request may take to arrive.")] = 20.0,
        body_seconds: Annotated[float, typer.Option(help="How long its body may take.")] = 30.0,
        wait_seconds: Annotated[float, typer.Option(help="How long a request may wait for its first token before it gets 503.")] = 600.0,
        answer_seconds: Annotated[float, typer.Option(help="How long an answer may take before it is cut.")] = 3600.0,
        send_seconds: Annotated[float, typer.Option(help="How long a client may leave its connection full before it counts as gone.")] = 60.0,
        keep_alive_seconds: Annotated[float, typer.Option(help="A sign of life is sent after so long without a token.")] = 10.0,
        lenient: Annotated[bool, typer.Option("--lenient/--strict-reasoning", help="Take turns without reasoning_content beside tools.")] = True,
        official_quirks: Annotated[bool, typer.Option("--official-quirks", help="Ignore temperature and top_p in thinking mode.")] = False,
        stop_seconds: Annotated[float, typer.Option(help="How long answers may still take once the service is told to stop.")] = 30.0,
        local_key: Annotated[bool, typer.Option("--local-key/--no-local-key", help="Make and print a key for this machine.")] = True,
        tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain.")] = None,
        tls_key: Annotated[Path | None, typer.Option(help="PEM private key.")] = None,
        log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    ) -> None:
        known = name or (model and model_name(model))
        settings = Settings(known or "found later", tuple(alias or ()), lenient=lenient, official_quirks=official_quirks, most_output=most_output,
                            most_requests=most_requests, body_mib=body_mib, head_seconds=head_seconds, body_seconds=body_seconds,
                            wait_seconds=wait_seconds, answer_seconds=answer_seconds, send_seconds=send_seconds,
                            keep_alive_seconds=keep_alive_seconds, stop_seconds=stop_seconds)
        state_bytes, cache_bytes = None if memory is None else to_bytes("--memory", memory), to_bytes("--cache", cache)
        set_up_logging(log_level)
        place = Place(host, port, tls_cert, tls_key)
        with contextlib.ExitStack() as stack:
            bound = stack.enter_context(contextlib.closing(place.bind()))
            accounts = stack.enter_context(Accounts.open(folder, database or from_environment(), load_prices(prices or ())))
            key = local_secret(accounts, folder) if local_key else ""
            model = model or find_model(runs, device)
            settings = dataclasses.replace(settings, name=known or model_name(model))
            journal: FileJournal | None = None

            def make_engine(transformer: Any) -> Engine:
                nonlocal journal
                journal_folder, cache_folder = service_folders(folder)
                journal = stack.enter_context(contextlib.closing(FileJournal(journal_folder, model=fingerprint(transformer))))
                store = stack.enter_context(contextlib.closing(DiskStore(cache_folder, budget_bytes=cache_bytes))) if cache_bytes else None
                mode: Literal["auto", "always", "off"] = speculate  # type: ignore[assignment]  # the engine checks it
                return Engine(transformer, sequences=sequences, memory=state_bytes, speculate=mode, journal=journal, store=store)

            session = open_model(model, device=device, precision=dtype, kernels=kernels, weights_budget=weights_budget, make_engine=make_engine)
            service = Service(session, accounts, settings, journal)
            run(service, place, bound, lambda: announce(service, place, bound, key, folder))

    command.__doc__ = HELP
    return command


def to_bytes(option: str, gib: float) -> int:
    """GiB in bytes."""
    if not 0 <= gib < 2**40:
        raise UserError(option, gib, "a number of GiB, 0 or more")
    return int(gib * 2**30)


def model_name(model: Path) -> str:
    """What a model is called if nobody says: its run's name."""
    folder = model_folder(model).resolve()
    return folder.parent.parent.name if folder.parent.name == "checkpoints" else folder.name


def set_up_logging(level: str) -> None:
    """Lines on standard error: time, level, message."""
    if level not in ("debug", "info", "warning", "error"):
        raise UserError("--log-level", level, "debug, info, warning or error")
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("fathom").setLevel(level.upper())


def local_secret(accounts: Accounts, folder: Path) -> str:
    """The secret of this machine's own key: kept from an earlier start, or made, with an account that is never out of balance."""
    file = folder / LOCAL_KEY
    with contextlib.suppress(OSError, UnicodeDecodeError):
        secret = file.read_text(encoding="ascii").strip()
        return secret if accounts.authenticate(secret) else ""  # revoked: then it stays so
    known = any(key.account == LOCAL_ACCOUNT for key in accounts.keys())
    made = accounts.create_key(LOCAL_ACCOUNT, account=LOCAL_ACCOUNT, postpaid=None if known else True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as out:
        out.write(made.secret + "\n")
    return made.secret


def announce(service: Service, place: Place, bound: socket.socket, key: str, folder: Path) -> None:
    """What to do next."""
    url, name = place.url(bound), service.settings.name
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    print(f"{name} is served on {url} with a context of {service.context} tokens; Ctrl-C stops it.")
    if not place.is_loopback() and not place.cert:
        print("Others can reach it, and keys travel in the clear: put TLS before it (--tls-cert, --tls-key).")
    if key:
        print(f"\n  page  {url}/#key={key}\n  key   {key}\n")
        print(f"  curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{body}'\n")
    else:
        print(f"\nKeys: fathom keys create NAME --folder {folder}\n")
    sys.stdout.flush()
