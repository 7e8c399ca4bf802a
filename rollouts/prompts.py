"""Prompts: a row of any accepted shape becomes a `Prompt`, or says why it cannot.

The shapes, in the order in which they are looked for: the template of the run, `responses_create_params` (NeMo Gym),
`prompt` (text or messages), `messages`. Text of a row is data: it is put into templates and records, never formatted,
never evaluated. Columns that did not become a part of the prompt as a whole stay in `Prompt.extra`, as they came.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, TypeAlias, get_args

import msgspec

from rollouts.conversations import (
    chat_messages,
    chat_tools,
    refuse_unanswerable,
    responses_messages,
    user_message,
    with_system_prompt,
)
from rollouts.errors import ConfigError, InvalidGroundTruth
from rollouts.identity import content_id
from rollouts.records import Message, Prompt
from rollouts.row_sampling import split_parameters
from rollouts.rows import Reason, Row, UnusableRow, excerpt_of_value
from rollouts.settings import CollectSettings, VerifierKind

CheckGroundTruth: TypeAlias = Callable[[str, Any], None]
"""Called with a verifier kind and a reference answer; raises `InvalidGroundTruth` when the one cannot use the other."""

GROUND_TRUTH_FIELDS = (
    "ground_truth",
    "expected_answer",
    "answer",
    "reward_model.ground_truth",
    "verifier_metadata.ground_truth",
    "verifier_metadata.expected_answer",
)
"""Where the reference answer is looked for when the run names no column; the first that holds something."""

_PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")
_VERIFIERS: tuple[str, ...] = get_args(VerifierKind)


class PromptReader:
    """Reads rows under the settings of one run.

    Args:
        settings: Template, system prompt, columns and verifier.
        check_ground_truth: Asks the verifier whether it can use a reference answer; `None` asks nobody.

    Raises:
        ConfigError: The template names no column, or the pattern is not a regular expression with a group.
    """

    def __init__(self, settings: CollectSettings, check_ground_truth: CheckGroundTruth | None = None) -> None:
        self._settings = settings
        self._check_ground_truth = check_ground_truth
        self._template = None if settings.prompt_template is None else Template(settings.prompt_template)
        self._pattern = None if settings.ground_truth_pattern is None else _compiled(settings.ground_truth_pattern)

    def read(self, row: Row) -> Prompt:
        """Make a prompt of a row.

        Raises:
            UnusableRow: With the reason.
        """
        extra = dict(row.columns)
        messages, tools, sampling = self._conversation(extra)
        messages = with_system_prompt(messages, self._settings.system_prompt)
        refuse_unanswerable(messages)
        verifier = self._verifier(extra)
        ground_truth = self._ground_truth(extra, verifier)
        return Prompt(
            prompt_id=content_id("prompt", messages, tools, sampling),
            messages=messages,
            tools=tools,
            ground_truth=ground_truth,
            verifier=verifier,
            sampling=sampling,
            category=self._category(extra),
            source=PurePosixPath(row.source).name,
            line=row.line,
            extra=extra,
        )

    def _conversation(self, extra: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]] | None, dict[str, Any]]:
        """Take messages, tools and sampling settings out of `extra`."""
        if self._template is not None:
            text = self._template.fill(extra)
            return user_message(text, "the filled template"), chat_tools(extra.pop("tools", None)), {}
        if extra.get("responses_create_params") is not None:
            return _from_nemo_gym(extra)
        if extra.get("prompt") is not None:
            prompt = extra.pop("prompt")
            messages = user_message(prompt, "prompt") if isinstance(prompt, str) else chat_messages(prompt, "prompt")
        elif extra.get("messages") is not None:
            messages = chat_messages(extra.pop("messages"), "messages")
        else:
            columns = ", ".join(sorted(extra)[:10]) or "none"
            message = (
                f"no responses_create_params, prompt or messages; name the text with a template. Columns: {columns}"
            )
            raise UnusableRow(Reason.MISSING_PROMPT, message)
        return messages, chat_tools(extra.pop("tools", None)), {}

    def _verifier(self, extra: dict[str, Any]) -> str:
        named = extra.pop("verifier", None)
        if named is None:
            return self._settings.verifier
        if named not in _VERIFIERS:
            message = f"verifier is {excerpt_of_value(named)}, need one of {', '.join(_VERIFIERS)}"
            raise UnusableRow(Reason.UNKNOWN_VERIFIER, message)
        return str(named)

    def _ground_truth(self, extra: dict[str, Any], verifier: str) -> Any:
        field = self._settings.ground_truth_field
        fields = GROUND_TRUTH_FIELDS if field is None else (field,)
        found = next((name for name in fields if not _is_blank(_lookup(extra, name))), None)
        if found is None:
            raise UnusableRow(Reason.MISSING_GROUND_TRUTH, f"no reference answer in {', '.join(fields)}")
        value = _lookup(extra, found)
        if self._pattern is not None:
            value = _last_match(self._pattern, value, found)
        elif found in extra:
            del extra[found]
        self._ask_verifier(verifier, value)
        return value

    def _ask_verifier(self, verifier: str, ground_truth: Any) -> None:
        if self._check_ground_truth is None:
            return
        try:
            self._check_ground_truth(verifier, ground_truth)
        except InvalidGroundTruth as error:
            raise UnusableRow(Reason.INVALID_GROUND_TRUTH, str(error)) from error

    def _category(self, extra: dict[str, Any]) -> str | None:
        name = self._settings.category_field or "category"
        value = _lookup(extra, name)
        if value is None or isinstance(value, list | dict):
            return None
        extra.pop(name, None)
        return _shown(value)


class Template:
    r"""A text with {column} in it. Other braces, as in \boxed{} or a JSON example, stay as they are.

    Args:
        text: The template.

    Raises:
        ConfigError: It has no {column} at all.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._names = set(_PLACEHOLDER.findall(text))
        self._columns: set[str] = set()
        if not self._names:
            raise ConfigError(f"the prompt template {text[:60]!r} names no column: write {{question}} for its value")

    def fill(self, columns: dict[str, Any]) -> str:
        r"""Put values of columns in place of their names, once: braces inside a value stay.

        A name in braces is a column when this row, or one read before it, has such a column; so `\boxed{answer}`
        stays in files without a column `answer`, and a row that lacks what others have is not given a literal name.

        Raises:
            UnusableRow: A column is missing or null.
        """
        self._columns |= self._names & columns.keys()
        missing = sorted(name for name in self._columns if columns.get(name) is None)
        if missing or not self._columns:
            shown = ", ".join(missing or sorted(self._names))
            raise UnusableRow(Reason.MISSING_COLUMN, f"the template asks for {shown}, which this row does not have")
        return _PLACEHOLDER.sub(lambda match: self._value(match, columns), self._text)

    def _value(self, match: re.Match[str], columns: dict[str, Any]) -> str:
        name = match.group(1)
        return _shown(columns[name]) if name in self._columns else match.group()


def _from_nemo_gym(extra: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]] | None, dict[str, Any]]:
    params = extra.pop("responses_create_params")
    if not isinstance(params, dict):
        shown = excerpt_of_value(params)
        raise UnusableRow(Reason.INVALID_PROMPT, f"responses_create_params must be an object, got {shown}")
    params = dict(params)
    content = params.pop("input", None)
    if content is None:
        raise UnusableRow(Reason.MISSING_PROMPT, "responses_create_params has no input")
    instructions = params.pop("instructions", None)
    if instructions is not None and not isinstance(instructions, str):
        shown = excerpt_of_value(instructions)
        raise UnusableRow(Reason.INVALID_PROMPT, f"instructions must be a text, got {shown}")
    messages = responses_messages(content)
    if instructions:
        messages = [{"role": "system", "content": instructions}, *messages]
    tools = chat_tools(params.pop("tools", None))
    sampling, kept = split_parameters(params)
    if kept:
        extra["responses_create_params"] = kept
    return messages, tools, sampling


def _lookup(columns: dict[str, Any], path: str) -> Any:
    """Value of a column, or of a field inside one (`reward_model.ground_truth`); `None` when it is not there."""
    if path in columns:
        return columns[path]
    value: Any = columns
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _is_blank(value: Any) -> bool:
    """Zero and false are answers; an empty or blank text, list or object is none."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _last_match(pattern: re.Pattern[str], value: Any, field: str) -> str:
    text = _shown(value)
    matches = list(pattern.finditer(text))
    answer: str | None = matches[-1].group(1) if matches else None
    if answer is None or not answer.strip():
        message = f"the pattern {pattern.pattern!r} finds nothing in {field}: ...{text[-60:]!r}"
        raise UnusableRow(Reason.GROUND_TRUTH_NOT_FOUND, message)
    return answer.strip()


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"ground_truth_pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups == 0:
        raise ConfigError(
            f"ground_truth_pattern {pattern!r} has no group: put the answer in parentheses, as in #### (.+)"
        )
    return compiled


def _shown(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
