"""What is wrong with prompts that can be read: LoRAs out of place, and what another syntax would make of them."""

import re
from collections.abc import Iterable, Mapping, Sequence

from latentrt.engines.errors import RequestError
from latentrt.runtime.checks import warn_caller
from latentrt.runtime.prompts.encoder import Prompts
from latentrt.runtime.prompts.plan import PromptPlan, is_composed
from latentrt.runtime.prompts.style import PromptOptions, PromptSyntax
from latentrt.runtime.prompts.syntax.tree import LoraTag

_ASKS_FOR_LORAS = {
    PromptSyntax.A1111: ("<lora:", "<lyco:"),
    PromptSyntax.COMPEL: ("withLora(", "useLora("),
}
_PROMPT_EDITING = re.compile(r"\[[^\[\]]*:\s?[\d.]{1,6}\s?\]")


def check_loras(
    of_encoders: Sequence[Prompts], options: PromptOptions, tags: Mapping[str, tuple[LoraTag, ...]]
) -> None:
    """Refuses LoRAs in negative prompts, and warns of those that are written in another syntax.

    Args:
        of_encoders: the prompts.
        options: how they are read.
        tags: the LoRAs that every text asks for.

    Raises:
        RequestError: naming the LoRA.
    """
    for text in (text for one in of_encoders for text in one.negatives or ()):
        if tags[text]:
            raise RequestError(
                f"got LoRA {tags[text][0].name!r} in a negative prompt, expected it in the prompt, where it "
                "holds for the whole picture; move it there"
            )
    for text in tags:
        for syntax, begins in _ASKS_FOR_LORAS.items():
            found = next((begin for begin in begins if begin in text), None)
            if found is not None and syntax is not options.syntax:
                warn_caller(
                    f"a prompt has {found}…, which a {options.syntax} prompt takes for text; set "
                    f"prompt_syntax={syntax.value!r}, or name the LoRA in loras"
                )
                return


def warn_of_syntax(texts: Iterable[str], options: PromptOptions, plan: PromptPlan) -> None:
    """Warns of A1111's prompt editing in another syntax, and of a weight that may be meant as text.

    Args:
        texts: all prompts as they were written.
        options: how they are read.
        plan: what became of them.
    """
    if options.syntax is not PromptSyntax.A1111:
        found = next((found for text in texts if "[" in text and (found := _PROMPT_EDITING.search(text))), None)
        if found:
            warn_caller(
                f"a prompt has {found.group()[:40]}, which a {options.syntax} prompt takes for text; set "
                "prompt_syntax='a1111' for a prompt that changes with the steps"
            )
    elif len(plan.weights) == 1 and is_composed(plan.weights):
        weight = next(weight for weight in plan.weights[0].ravel().tolist() if weight != 1.0)
        warn_caller(
            f"a prompt ends in a colon and {weight:g}, which A1111's syntax takes for its weight, by which guidance is "
            "multiplied; put a comma behind it if it is text"
        )
