"""Turn a model's chat template into the plain text that it puts around texts.

    roles --> messages with marks for texts --> rendered once --> text around the marks

A chat template is a program in Jinja, which transformers renders in a sandbox. It is run a few
times when a model is loaded, never once per text, and has to leave texts as they are: what it makes
of some probes is compared. Texts are then cut to fit as in any other template.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import ModelFolder
from beam_gpte.core.encoder.pretrained import load_tokenizer
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import read_settings

# Stand in for texts, in one template each; no other text has them.
_MARKS = ("QjxMarkOneVqz", "QjxMarkTwoVqz", "QjxMarkThreeVqz")
# Texts that templates have been seen to change: by trimming, escaping, or a rule for some of them.
_PROBES = ("a", "Two words.", "  blanks\n around \t", "<b>&amp; {{x}} 'q' \"r\"", "é\n\nßЖ 中 0")

# Templates whose messages are lists of parts name the parts so; as sentence-transformers guesses.
_STRUCTURED = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
_FLAT_TYPES = ("apertus", "deepseek_v3", "gpt_oss", "seed_oss")


@dataclasses.dataclass(frozen=True)
class ChatFrame:
    """Hold the text around one or more texts.

    Attributes:
      parts: one more than there are texts: before the first, between them, and after the last.
      trims: whether white space around a text is removed first.
    """

    parts: tuple[str, ...]
    trims: bool = False

    def fill(self, texts: Sequence[str]) -> str:
        """Put texts between the parts."""
        cleaned = [*map(self.clean, texts), ""]
        return "".join(part + text for part, text in zip(self.parts, cleaned, strict=True))

    def clean(self, text: str) -> str:
        """Return a text as the template takes it."""
        return text.strip() if self.trims else text


def chat_frame(folder: ModelFolder, config: EncoderConfig) -> ChatFrame | None:
    """Return what a model's chat template puts around a text; None where it has none to use.

    Texts are messages of the user, and a prompt is a system message, as in sentence-transformers.

    Raises:
      InputError: the template cannot be used, see `read_chat_template`, or texts are to be split.
    """
    if not folder.has_chat_template or config.template is not None:
        return None
    if config.long_text != "truncate":
        raise InputError(
            f"long_text {config.long_text!r}: model {config.model!r} has a chat template, which is "
            "for whole texts; leave it out"
        )
    pretrained = load_tokenizer(folder, config.trust_remote_code)
    model_type = str(read_settings(folder.transformer / "config.json").get("model_type"))
    layout = message_format(pretrained, model_type, folder.chat_layout)
    owner = f"model {config.model!r}"
    system = folder.prompt(config)
    return read_chat_template(pretrained, ("user",), system, layout, folder.chat_arguments, owner)


def message_format(pretrained: Any, model_type: str, named: object) -> str:
    """Return whether a template takes texts as they are, ``flat``, or as lists of parts.

    Args:
      pretrained: the tokenizer, with the template.
      model_type: of the model.
      named: what the model's files say, if anything.
    """
    if named in ("flat", "structured"):
        return str(named)
    template = pretrained.chat_template
    if model_type in _FLAT_TYPES:
        return "flat"
    is_listed = not isinstance(template, str) or any(part in template for part in _STRUCTURED)
    return "structured" if is_listed else "flat"


def read_chat_template(
    pretrained: Any,
    roles: Sequence[str],
    system: str,
    layout: str,
    arguments: Mapping[str, Any],
    owner: str,
) -> ChatFrame:
    """Render the chat template of a tokenizer around texts of these roles.

    Args:
      pretrained: the tokenizer, with the template.
      roles: of the texts, in the order in which messages have them.
      system: the text of a system message before them; empty for none.
      layout: see `message_format`.
      arguments: further ones of the template, such as ``add_generation_prompt``.
      owner: starts the error messages.

    Raises:
      InputError: there is no template, it fails, leaves a text out, repeats or changes it.
    """

    def render(texts: Sequence[str]) -> str:
        contents = zip(("system", *roles), (system, *texts), strict=True)
        messages = [
            {
                "role": role,
                "content": text if layout == "flat" else [{"type": "text", "text": text}],
            }
            for role, text in contents
            if text or role != "system"
        ]
        return str(pretrained.apply_chat_template(messages, tokenize=False, **arguments))

    if not getattr(pretrained, "chat_template", None):
        raise InputError(f"{owner}: no chat template in its files; give a template")
    try:
        rendered = render(_MARKS[: len(roles)])
        frame = _split(rendered, len(roles))
        if frame is not None:
            for chosen in itertools.product(_PROBES, repeat=len(roles)):
                if render(chosen) != frame.fill(chosen):
                    if frame.trims:
                        frame = None
                        break
                    frame = dataclasses.replace(frame, trims=True)
                    if render(chosen) != frame.fill(chosen):
                        frame = None
                        break
    except Exception as error:  # of any kind: the template is a program
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{owner}: its chat template fails ({reason}); give a template") from error
    if frame is None:
        raise InputError(
            f"{owner}: its chat template leaves out, repeats or changes the texts of the roles "
            f"{', '.join(roles)}; give a template"
        )
    return frame


def _split(rendered: str, texts: int) -> ChatFrame | None:
    """Split a rendering at the marks; None unless each is there once, in order."""
    parts, rest = [], rendered
    for mark in _MARKS[:texts]:
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            return None
        parts.append(before)
    return ChatFrame((*parts, rest))
