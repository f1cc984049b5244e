"""Dialogues as prompts: lists of messages, and pairs given as two whole dialogues."""

from __future__ import annotations

from collections.abc import Mapping

from heedful.data.bad_rows import RowProblem, shown
from heedful.data.fields import Fields, has, inside, list_of, meant_by, prompt_of, text_of

USER_TURNS = ("user", "human")
ASSISTANT_TURNS = ("assistant", "gpt")
_ASSISTANT = "Assistant:"
_ASSISTANT_TURN = f"\n\n{_ASSISTANT}"


def render_dialogue(turns: list[tuple[str, str]]) -> str:
    """The prompt that (role, text) turns make: "Human: ...", blank line, ..., "Assistant:".

    A system turn stands without a name at the place where it was said.
    """
    names: dict[str, str] = dict.fromkeys(USER_TURNS, "Human: ")
    names |= dict.fromkeys(ASSISTANT_TURNS, "Assistant: ")
    return "\n\n".join([*(names.get(role, "") + text for role, text in turns), _ASSISTANT])


def last_exchange(row: Fields, field: str) -> tuple[str, str]:
    """(prompt, response) of a list of messages: the last assistant turn answers what is before."""
    turns = turns_of(row, field)
    last = last_turn(turns, ASSISTANT_TURNS, field)
    last_turn(turns[:last], USER_TURNS, field)
    return render_dialogue(turns[:last]), turns[last][1]


def turns_of(row: Fields, field: str) -> list[tuple[str, str]]:
    """The (role, text) of a list of messages, checked."""
    turns = []
    known = (*USER_TURNS, *ASSISTANT_TURNS, "system")
    for number, message in enumerate(list_of(row, field), start=1):
        if not isinstance(message, Mapping) or message.get("role") not in known:
            raise RowProblem(
                field,
                f"turn {number}: {shown(message)}",
                f'{{"role", "content"}} with role one of {", ".join(known)}',
                "Rename the role, or leave out turns of tools.",
            )
        with inside(f"{field}[{number - 1}]"):
            turns.append((message["role"], text_of(message, "content")))
    return turns


def last_turn(turns: list[tuple[str, str]], roles: tuple[str, ...], field: str) -> int:
    """The index of the last turn of one of these roles."""
    for index in reversed(range(len(turns))):
        if turns[index][0] in roles:
            return index
    raise RowProblem(
        field,
        "turns of " + (", ".join(role for role, _ in turns) or "nobody"),
        f"a turn of the {roles[0]} (and an assistant's answer after it in a demonstration)",
        "Leave this dialogue out, or put its turns in order.",
    )


def pair_of(row: Fields) -> tuple[str, list[str]]:
    """(prompt, [chosen, rejected]) of a pair, given as responses or as whole dialogues."""
    if isinstance(row["chosen"], list):
        (prompt, chosen), (other, rejected) = (
            last_exchange(row, side) for side in ("chosen", "rejected")
        )
        if prompt != other:
            raise RowProblem(
                "rejected",
                "a dialogue that differs from the chosen one before its last turn",
                "two answers to the same turns",
                "Only the last assistant turn may differ.",
            )
        return prompt, [chosen, rejected]
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    if has(row, "prompt"):
        return prompt_of(row, "prompt"), [chosen, rejected]
    # The last turn of the assistant that begins before the two dialogues part.
    differ = (k for k, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    parting = next(differ, min(len(chosen), len(rejected)))
    end = chosen.rfind(_ASSISTANT_TURN, 0, parting) + len(_ASSISTANT_TURN)
    prompt = chosen[:end].lstrip()
    if end < len(_ASSISTANT_TURN) or prompt == _ASSISTANT:
        meant = meant_by(row, "prompt")
        raise RowProblem(
            "chosen",
            f"no turns shared with the rejected text: {shown(chosen)}",
            'a "prompt", or two dialogues that begin with the same turns up to "Assistant:"',
            f"Rename {meant!r} to 'prompt'."
            if meant
            else "Add the field 'prompt', or drop the row.",
        )
    return prompt, [chosen[end:].strip(), rejected[end:].strip()]
