"""The verb `fathom chat`. cli.py hands in what opens a model and what the environment says."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fathom.chat.conversation import MODES, Conversation, load, read_tools
from fathom.chat.terminal import Terminal
from fathom.errors import UserError

HELP = """Talk to a model: one that a service serves (--url), or one on this machine (--model).

Ctrl-C stops an answer, Ctrl-D ends the chat, /help shows the commands. Conversations (--conversation) are files that the
chat page can import, and the other way round.

Examples:

  fathom chat --model runs/latest

  fathom chat --url http://127.0.0.1:8000 --key sk-…

  fathom chat --url http://127.0.0.1:8000 --conversation ideas.json --mode max
"""


def chat_command(open_model: Callable[[Path, str, str | None, str], Any], environment_key: Callable[[], str]) -> Callable[..., None]:
    """The command's function.

    Args:
        open_model: (folder, device, dtype, kernels) → a Session.  environment_key: the key that the environment has, or "".
    """
    def chat(
        model: Annotated[Path | None, typer.Option(help="Run or checkpoint folder; runs/latest without --url.")] = None,
        url: Annotated[str | None, typer.Option(help="Address of a service, such as http://127.0.0.1:8000.")] = None,
        key: Annotated[str | None, typer.Option(help="The service's key; FATHOM_API_KEY, which no history keeps, unless given.")] = None,
        name: Annotated[str | None, typer.Option(help="Which of the service's models; its first one unless given.")] = None,
        conversation: Annotated[Path | None, typer.Option(help="File to go on with; written after every turn.")] = None,
        mode: Annotated[str | None, typer.Option(help=f"{', '.join(MODES)}; thinking unless the conversation says.")] = None,
        system: Annotated[str | None, typer.Option(help="Instructions that the model reads first.")] = None,
        tools: Annotated[Path | None, typer.Option(help="JSON file with functions that the model may call.")] = None,
        temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 (always the likeliest) to 2.")] = None,
        top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Sample from the likeliest tokens that make up this probability.")] = None,
        max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, thinking included.")] = None,
        seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answers.")] = None,
        dtype: Annotated[str | None, typer.Option(help="Of a local model: float32, bfloat16 or float16; bfloat16 where the device has it.")] = None,
        device: Annotated[str, typer.Option(help="Of a local model: auto, cpu, or an accelerator.")] = "auto",
        kernels: Annotated[str, typer.Option(help="Of a local model: auto, reference, or one of amx, avx512, avx512f, avx2, portable.")] = "auto",
    ) -> None:
        if model is not None and url is not None:
            raise UserError("--model", model, "a service has its own model", "give --model or --url")
        if url is None and (key is not None or name is not None):
            raise UserError("--key" if key is not None else "--name", None, "is about a service", "give --url too")
        if url is not None and (dtype is not None or device != "auto" or kernels != "auto"):
            raise UserError("--dtype, --device, --kernels", None, "are about a local model", "leave them out with --url")
        if mode is not None and mode not in MODES:
            raise UserError("--mode", mode, f"one of {', '.join(MODES)}")
        talk = load(conversation) if conversation and conversation.exists() else Conversation()
        given = {"mode": mode, "system": system, "temperature": temperature, "topP": top_p, "maxTokens": max_tokens, "seed": seed,
                 "tools": None if tools is None else _text(tools)}
        talk.settings.update({field: value for field, value in given.items() if value is not None})
        read_tools(talk.settings["tools"], str(tools or "tools"))
        Terminal(_opened(url, key, name, model, open_model, environment_key, device, dtype, kernels), talk, conversation).run()

    chat.__doc__ = HELP
    return chat


def _opened(url: str | None, key: str | None, name: str | None, model: Path | None, open_model: Callable[..., Any],
            environment_key: Callable[[], str], device: str, dtype: str | None, kernels: str) -> Any:
    if url is not None:
        from fathom.chat.remote import Remote

        return Remote(url, environment_key() if key is None else key, name)
    from fathom.chat.local import Local

    folder = model or Path("runs/latest")
    return Local(open_model(folder, device, dtype, kernels), folder.resolve().name)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("--tools", file, f"cannot be read: {error}") from None
