"""Functions and classes are found in every language, and become chunks with their comments."""

import pytest

from beam_gpte.core.text.chunking import Characters
from beam_gpte.core.text.chunking_code import LANGUAGES, code_parts, language_name
from tests.core.text.test_chunking import check, chunks

PYTHON = '''"""Module."""
import os

LIMIT = "é"

# What f does.
# More of it.
@functools.cache
def f(a):
    return a


class C(Base):
    """Doc."""

    size = 1

    def first(self):
        return 1

    # About the second.
    async def second(self):
        def inner():
            return 2

        return inner


if LIMIT:
    f(1)
'''


def test_functions_and_classes_are_chunks_with_the_comments_above_them() -> None:
    whole = chunks(PYTHON, 1000, way="python")
    f = "# What f does.\n# More of it.\n@functools.cache\ndef f(a):\n    return a"
    assert whole[:2] == ['"""Module."""\nimport os\n\nLIMIT = "é"', f]
    assert whole[2].startswith("class C(Base):")
    assert whole[2].endswith("return inner")
    assert whole[3] == "if LIMIT:\n    f(1)"
    parts = chunks(PYTHON, 120, way="python")
    assert parts[2:4] == [
        'class C(Base):\n    """Doc."""\n\n    size = 1',
        "def first(self):\n        return 1",
    ]
    assert parts[4].startswith(
        "# About the second.\n    async def second(self):\n        def inner():"
    )
    # functions that do not fit are cut at the functions inside them, and by lines
    assert chunks(PYTHON, 40, way="python")[1:3] == [
        "# What f does.\n# More of it.",
        "@functools.cache\ndef f(a):\n    return a",
    ]
    assert chunks(PYTHON, 40, way="python")[6:10] == [
        "# About the second.",
        "async def second(self):",
        "def inner():\n            return 2",
        "return inner",
    ]


PROGRAMS = {
    "c": ("#include <a.h>\n/* f */\nint f(void) { return 1; }\nstruct s { int a; };\n", 3),
    "c#": ("using A;\nclass C { void M() {} }\ninterface I {}\n", 3),
    "c++": (
        "#include <a>\ntemplate <class T> class A { void m() {} };\nint main() { return 0; }\n",
        3,
    ),
    "go": ("package p\n\n// F does.\nfunc F() {}\n\ntype T struct{}\n\nfunc (t T) M() {}\n", 4),
    "java": ("package p;\n/** d */\npublic class A { void m() {} }\nenum E { X }\n", 3),
    "javascript": (
        "import a from 'a';\nexport class A { m() {} }\nconst f = (x) => x;\nfunction g() {}\n",
        4,
    ),
    "php": ("<?php\nfunction f() {}\nclass A { function m() {} }\n", 3),
    "python": ("import os\ndef f(): pass\nclass A: pass\n", 3),
    "ruby": ("require 'a'\nclass A\n  def m; end\nend\ndef f; end\n", 3),
    "rust": ("use a;\n#[derive(Debug)]\nstruct S;\nimpl S { fn m(&self) {} }\nfn main() {}\n", 4),
    "tsx": ("import a from 'a';\nexport const C = () => <div/>;\n", 2),
    "typescript": (
        "interface I { a: number }\nexport abstract class B<T> { m(): void {} }\nfunction f() {}\n",
        3,
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_functions_and_classes_are_found_in_every_language(language: str) -> None:
    program, number = PROGRAMS[language]
    found = check(program, code_parts(program, language), Characters(), 1000, 0)
    assert len(found) == number
    broken = program[: len(program) * 2 // 3] + "((("
    assert check(broken, code_parts(broken, language), Characters(), 1000, 0)


def test_a_language_has_many_names() -> None:
    names = {"Python": "python", "C++": "c++", "cpp": "c++", "TS": "typescript", "C#": "c#"}
    assert {name: language_name(name) for name in names} == names
    assert language_name("cobol") is None


def test_expressions_may_nest_deeper_than_the_stack() -> None:
    deep = "x = " + "(" * 3000 + "1" + ")" * 3000 + "\ndef f(): pass\n"
    assert check(deep, code_parts(deep, "python"), Characters(), 20_000, 0)[-1] == "def f(): pass"
