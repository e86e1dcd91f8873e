"""What the site needs of Sphinx beyond its settings: lines of code that are looked up, formulas without a network."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.search.en import SearchEnglish
from sphinx.util.docutils import SphinxDirective

import zoo
from zoo.documentation.code_lines import place_of
from zoo.documentation.docstrings import process_docstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["CachedEnglish", "CodeLine", "setup"]


class CodeLine(SphinxDirective):
    """``code-line``: lines that are an equation, as they stand in a function of the zoo, with their place.

    Its argument is ``module:object``, its content the lines; a line that is not there is an error of the build.
    """

    has_content = True
    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the block with its caption."""
        where, lines = self.arguments[0], list(self.content)
        number = place_of(where, lines)
        if number is None:
            raise self.error(f"these lines are not in {where}: {lines}")
        module, _, name = where.partition(":")
        block = nodes.literal_block("\n".join(lines), "\n".join(lines), language="python")
        path = Path(inspect.getfile(importlib.import_module(module))).relative_to(Path(zoo.__file__).parent.parent)
        place = ", ".join(filter(None, (name, path.as_posix(), f"line {number}")))
        caption = nodes.paragraph("", "", nodes.emphasis("", place))
        box = nodes.container("", block, caption, classes=["zoo-code-line"])
        return [box]


def _mathml(text: str, *, block: bool) -> str:
    return latex2mathml.tex2mathml(text, as_block=block).replace("\n", " ")


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="zoo-formula">{_mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


class CachedEnglish(SearchEnglish):
    """English, whose words are stemmed once for the whole site and not once for each page."""

    def __init__(self, options: dict[str, str]) -> None:
        super().__init__(options)
        self._stems: dict[str, str] = {}

    def stem(self, word: str) -> str:
        """Return what is left of a word without its endings."""
        if word not in self._stems:
            self._stems[word] = super().stem(word)
        return self._stems[word]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the formulas."""
    app.add_directive("code-line", CodeLine)
    app.add_search_language(CachedEnglish)
    app.connect("autodoc-process-docstring", process_docstring, priority=400)  # napoleon's is 500
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
