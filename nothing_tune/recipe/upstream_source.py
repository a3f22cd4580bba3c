"""Reads the options of upstream config classes from their source text, by `ast`: nothing of upstream is imported.

A class is found by following imports from file to file; its fields are its own and those of its bases, in the order in
which `dataclasses.fields` gives them. Enumerations and `Literal` become choices.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Row = tuple[str, list[str], Any, dict[str, Any], str]
"""`(types joined by |, choices, default, {fields, required}, documentation)`."""

CHOICES = {
    ("SFTConfig", "log_level"): "debug info warning error critical detail passive",
    ("SFTConfig", "log_level_replica"): "debug info warning error critical detail passive",
    ("SFTConfig", "include_num_input_tokens_seen"): "all non_padding no",
    ("BitsAndBytesConfig", "bnb_4bit_quant_type"): "nf4 fp4",
    ("BitsAndBytesConfig", "bnb_4bit_compute_dtype"): "float32 bfloat16 float16",
    ("BitsAndBytesConfig", "bnb_4bit_quant_storage"): "float16 float32 int8 uint8 float64 bfloat16",
    ("VERA", "bias"): "none all vera_only",
}
"""Choices that the sources state in prose or in code only: training_args.py, quantization_config.py, vera/config.py."""
MORE_TYPES = {("SFTConfig", "fsdp"): "bool", ("SFTConfig", "include_num_input_tokens_seen"): "str"}
"""Types that the field's own comment or code allows beyond its annotation."""
MORE_CHOICES = {("LORA", "init_lora_weights"): ("lora_ga",)}
"""Values that `peft/tuners/lora/layer.py` acts on and the annotation leaves out."""


def read(kind: str) -> dict[str, Row] | None:
    """The options of `kind` in the installed version; None where it has no such class."""
    return read_all().get(kind)


@cache
def read_all() -> dict[str, dict[str, Row]]:
    """The options of every kind that the installed versions have."""
    out: dict[str, dict[str, Row]] = {}
    nested: dict[str, tuple[_File, ast.ClassDef]] = {}
    for kind, (module, name) in _kinds().items():
        found = _find(module, name)
        if found is not None:
            out[kind] = _read_class(kind, *found, nested)
    while nested:
        kind, found = nested.popitem()
        if kind not in out:
            out[kind] = _read_class(kind, *found, nested)
    return out


@cache
def peft_classes() -> dict[str, tuple[str, str]]:
    """PEFT type -> (module, config class), from the calls of `register_peft_method`."""
    out = {}
    root = _root("peft")
    for path in sorted((root / "tuners").glob("*/__init__.py")) if root else []:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "register_peft_method":
                given = {k.arg: k.value for k in node.keywords}
                name, config = given["name"], given["config_cls"]
                if isinstance(name, ast.Constant) and isinstance(config, ast.Name):
                    out[str(name.value).upper()] = (f"peft.tuners.{path.parent.name}", config.id)
    return out


def _kinds() -> dict[str, tuple[str, str]]:
    return {
        "SFTConfig": ("trl.trainer.sft_config", "SFTConfig"),
        "BitsAndBytesConfig": ("transformers.utils.quantization_config", "BitsAndBytesConfig"),
        **peft_classes(),
    }


class _File:
    """One parsed source file: its classes, its imports and its module-level values."""

    def __init__(self, module: str, path: Path) -> None:
        self.module, self.is_package = module, path.name == "__init__.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.classes = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
        self.values = {
            n.targets[0].id: n.value
            for n in tree.body
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
        }
        self.imports: dict[str, tuple[str, str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.imports.setdefault(alias.asname or alias.name, (self._absolute(node), alias.name))

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        parts = parts[: len(parts) - node.level + (1 if self.is_package else 0)]
        return ".".join([*parts, *([node.module] if node.module else [])])


@cache
def _root(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


@cache
def _file(module: str) -> _File | None:
    package, *rest = module.split(".")
    root = _root(package) if package in ("trl", "transformers", "peft") else None
    if root is None:
        return None
    base = root.joinpath(*rest)
    for path in (base.with_suffix(".py") if rest else base / "__init__.py", base / "__init__.py"):
        if path.is_file():
            return _File(module, path)
    return None


def _find(module: str, name: str, depth: int = 0) -> tuple[_File, ast.ClassDef] | None:
    """The file and definition of a class, imports followed."""
    file = _file(module)
    if file is None or depth > 8:
        return None
    if name in file.classes:
        return file, file.classes[name]
    if name in file.imports:
        return _find(*file.imports[name], depth + 1)
    return None


def _read_class(kind: str, file: _File, node: ast.ClassDef, nested: dict[str, Any]) -> dict[str, Row]:
    rows = _signature(kind, file, node, nested) if kind == "BitsAndBytesConfig" else _fields(kind, file, node, nested)
    for name, row in rows.items():
        types, choices, default, extra, doc = row
        if (kind, name) in CHOICES:
            choices = CHOICES[kind, name].split()
        choices = [*choices, *(c for c in MORE_CHOICES.get((kind, name), ()) if c not in choices)]
        more = MORE_TYPES.get((kind, name), "")
        if more and more not in types.split("|"):
            types = f"{types}|{more}"
        rows[name] = (types, choices, default, extra, doc)
    return rows


def _fields(kind: str, file: _File, node: ast.ClassDef, nested: dict[str, Any]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for base in reversed(node.bases):
        name = base.id if isinstance(base, ast.Name) else ""
        found = (
            (file, file.classes[name])
            if name in file.classes
            else _find(*file.imports[name])
            if name in file.imports
            else None
        )
        if found:
            rows |= _fields(kind, *found, nested)
    docs = _documented(ast.get_docstring(node) or "")
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        name, given = item.target.id, _field_arguments(item.value)
        if "ClassVar" in ast.unparse(item.annotation):
            continue
        if isinstance(given.get("init"), ast.Constant) and given["init"].value is False:  # type: ignore[attr-defined]
            rows.pop(name, None)
            continue
        types, choices, fields = _types(item.annotation, file, nested)
        metadata = given.get("metadata")
        told: dict[str, ast.expr] = {}
        if isinstance(metadata, ast.Dict):
            told = {
                str(k.value): v
                for k, v in zip(metadata.keys, metadata.values, strict=True)
                if isinstance(k, ast.Constant)
            }
        listed = _literal(told["choices"]) if "choices" in told else None
        if isinstance(listed, list):
            choices = [str(c) for c in listed]
        required = not ({"default", "default_factory"} & set(given))
        default = _default(given, node, file)
        if default is None and not required and "null" not in types and _is_none(given.get("default")):
            types.append("null")
        extra: dict[str, Any] = {"fields": fields} if fields else {}
        if required:
            extra["required"] = True
        doc = docs.get(name) or _clean(str(_literal(told.get("help")) or "")) or (rows[name][4] if name in rows else "")
        rows[name] = ("|".join(types), choices, default, extra, doc)
    # A subclass's docstring may describe fields that it inherits.
    for name, doc in docs.items():
        if name in rows and not rows[name][4]:
            rows[name] = (*rows[name][:4], doc)
    return rows


def _signature(kind: str, file: _File, node: ast.ClassDef, nested: dict[str, Any]) -> dict[str, Row]:
    """Options of a plain class: the parameters of `__init__`, with types from its docstring."""
    init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    text = ast.get_docstring(node) or ""
    docs = _documented(text)
    rows: dict[str, Row] = {}
    parameters = init.args.args[1:]
    for parameter, default in zip(parameters, init.args.defaults, strict=True):
        head = re.search(rf"^\s*{parameter.arg} \((.*)\):", text, re.M)
        kinds = re.findall(r"list\[str\]|\b(?:bool|int|float|str)\b", head[1].split("*optional*")[0]) if head else []
        value = _literal(default)
        types = list(dict.fromkeys([*kinds, *(["null"] if value is None else [])])) or ["any"]
        rows[parameter.arg] = ("|".join(types), [], value, {}, docs.get(parameter.arg, ""))
    return rows


def _field_arguments(value: ast.expr | None) -> dict[str, ast.expr]:
    if value is None:
        return {}
    if isinstance(value, ast.Call) and getattr(value.func, "id", getattr(value.func, "attr", "")) == "field":
        return {k.arg: k.value for k in value.keywords if k.arg}
    return {"default": value}


def _types(annotation: ast.expr, file: _File, nested: dict[str, Any]) -> tuple[list[str], list[str], str]:
    """`(types, choices, kind of a nested config)` of an annotation."""
    types: list[str] = []
    choices: list[str] = []
    fields = ""

    def visit(node: ast.expr) -> None:
        nonlocal fields
        if isinstance(node, ast.BinOp):
            visit(node.left)
            visit(node.right)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            visit(ast.parse(node.value, mode="eval").body)
        elif isinstance(node, ast.Constant) and node.value is None:
            types.append("null")
        elif isinstance(node, ast.Subscript):
            outer = ast.unparse(node.value).rsplit(".", 1)[-1]
            inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
            if outer in ("Union", "Optional"):
                for part in inner:
                    visit(part)
                types.extend(["null"] if outer == "Optional" else [])
            elif outer == "Literal":
                for part in inner:
                    literal(part)
            elif outer in ("list", "List", "set", "tuple", "Sequence"):
                names = {ast.unparse(i) for i in inner}
                types.append(f"list[{names.pop()}]" if names in ({"str"}, {"int"}) else "list")
                if (
                    outer == "list"
                    and isinstance(inner[0], ast.Name)
                    and inner[0].id not in ("str", "int", "float", "bool")
                ):
                    named(inner[0].id, in_list=True)
            elif outer in ("dict", "Dict"):
                types.append("dict")
            else:
                types.append("any")
        elif isinstance(node, ast.Name):
            named(node.id)
        else:
            types.append("any")

    def literal(node: ast.expr) -> None:
        value = node.value if isinstance(node, ast.Constant) else None
        types.append("null" if value is None else type(value).__name__)
        if isinstance(value, str):
            choices.append(value)

    def named(name: str, in_list: bool = False) -> None:
        nonlocal fields
        plain = {
            "bool": "bool",
            "int": "int",
            "float": "float",
            "str": "str",
            "dict": "dict",
            "Dict": "dict",
            "list": "list",
            "List": "list",
        }
        if name in plain:
            types.append(plain[name])
            return
        if name in file.values:
            visit(file.values[name])
            return
        found = (
            (file, file.classes[name])
            if name in file.classes
            else _find(*file.imports[name])
            if name in file.imports
            else None
        )
        if found is None:
            if not in_list:
                types.append("any" if name == "Any" else "dict")
        elif any("Enum" in ast.unparse(base) for base in found[1].bases):
            choices.extend(_enum(found[1]).values())
            if not in_list:
                types.append("str")
        elif not in_list:
            types.append("dict")
            fields = name
            nested[name] = found

    visit(annotation)
    return list(dict.fromkeys(types)), list(dict.fromkeys(choices)), fields


def _enum(node: ast.ClassDef) -> dict[str, str]:
    return {
        n.targets[0].id: str(n.value.value)
        for n in node.body
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and isinstance(n.value, ast.Constant)
    }


def _default(given: dict[str, ast.expr], node: ast.ClassDef, file: _File) -> Any:
    factory, value = given.get("default_factory"), given.get("default")
    if isinstance(factory, ast.Name):
        return {"dict": {}, "list": []}.get(factory.id)
    if isinstance(factory, ast.Lambda):
        return _literal(factory.body)
    if isinstance(value, ast.Name):  # a name assigned in the class body; the last one wins
        assigned = [
            n.value for n in ast.walk(node) if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == value.id
        ]
        value = assigned[-1] if assigned else file.values.get(value.id)
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        name = value.value.id
        found = (
            (file, file.classes[name])
            if name in file.classes
            else _find(*file.imports[name])
            if name in file.imports
            else None
        )
        return _enum(found[1]).get(value.attr) if found else None
    return _literal(value)


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    if isinstance(node, ast.Call) and not node.args and getattr(node.func, "id", "") in ("list", "tuple", "dict"):
        return {} if getattr(node.func, "id", "") == "dict" else []
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return list(value) if isinstance(value, tuple | set) else value


def _is_none(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _documented(text: str) -> dict[str, str]:
    """Name -> first paragraph of each entry `name (type): text` of a docstring."""
    out: dict[str, str] = {}
    lines = text.splitlines()
    for index, line in enumerate(lines):
        head = re.match(r"^(\s+)([A-Za-z_]\w*) ?\((.*?)\):?\s*(?:\)\s*:)?(.*)$", line)
        if not head or not re.match(r"[`\[\w*]", head[3]):
            continue
        indent, said = len(head[1]), [head[4].lstrip(": ")]
        for below in lines[index + 1 :]:
            deep = len(below) - len(below.lstrip())
            if (not below.strip() and any(said)) or (below.strip() and deep <= indent):
                break
            said.append(below.strip())
        out.setdefault(head[2], _clean(" ".join(said)))
    return out


def _clean(text: str) -> str:
    """Plain text: no cross-reference marks, one space between words, at most about 600 characters, whole sentences."""
    text = re.sub(r"<a\s+href=['\"]([^'\"]*)['\"]\s*>(.*?)</a>", r"\2 (\1)", text, flags=re.S)
    text = re.sub(r"\[`~?([^`\]]*)`\]", r"`\1`", text)
    text = re.sub(r"\[([^\]]*)\]\((https?://[^)]*)\)", r"\1 (\2)", text)
    text = re.sub(r"> ?\[![A-Z]+\].*|> ?$", "", text)
    text = re.sub(r"\s+", " ", text).strip()
    if len(text) <= 600:
        return text
    end = text.rfind(". ", 0, 600)
    return text[: end + 1] if end > 100 else text[:597] + "..."
