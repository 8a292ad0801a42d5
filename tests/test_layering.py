"""The layers of the architecture: which modules may import which."""

import ast

from tests.conftest import ROOT

# Each layer may import from itself and from those below.
LAYERS = [
    {"errors", "runtime", "__version__"},
    {"options", "pyramid", "storage"},
    {"systems"},
    {"config"},
    {"cli", "subsampling", "video_io"},
    {"data", "models", "ray_cluster", "runs"},
    {"implementations of systems"},
    {"events", "interop", "pretrained", "serving"},
    {"evaluation"},
    {"sampling", "training"},
    {"diagnosis", "explorer"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
ENTRY_POINTS = {
    *("train", "generate", "export", "evaluate", "train_classifier", "explore", "project", "doctor", "import_chainer"),
    *("__main__", "api"),  # api calls the same functions as the commands
}
# Names and settings of the systems are read by the config; their networks are above `models`.
REGISTRY = {f"tganv2_tf.systems.{name}" for name in ("SYSTEMS", "SystemConfig", "config_class", "model_class")}
COMMANDS = ENTRY_POINTS - {"api"}


def imports(path):
    """Returns the names of the modules that a file imports, including inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(module):
    """Returns the part of the package that a module belongs to, given its name or that of something in it."""
    words = module.split(".")
    if words[1] == "systems" and not {"config", "system_config"} & set(words[2:]) and module not in REGISTRY:
        return "implementations of systems"
    return words[1]


def parts_used(path):
    """Returns the parts of the package that a file imports."""
    for name in imports(path):
        if name.startswith("tganv2_tf."):
            yield part_of(name)


def test_each_layer_imports_only_itself_and_lower_ones():
    package = ROOT / "tganv2_tf"
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module == "tganv2_tf" or part_of(module) in ENTRY_POINTS:
            continue
        part = "systems" if module == "tganv2_tf.systems" else part_of(module)
        assert part in HEIGHT, f"{path.name} is in no layer"
        for used in parts_used(path):
            assert used not in ENTRY_POINTS, f"{path} imports the entry point {used}"
            assert HEIGHT[used] <= HEIGHT[part], f"{path} imports {used} from a higher layer"
            same_layer = HEIGHT[used] == HEIGHT[part] and used != part
            assert not same_layer, f"{path} imports {used} from another part of its layer"


def test_inference_imports_nothing_of_training():
    package = ROOT / "tganv2_tf"
    folders = [package / name for name in ("sampling", "serving", "evaluation", "explorer")]
    commands = [package / f"{name}.py" for name in ("generate", "export", "explore", "project", "evaluate", "api")]
    for path in [*(path for folder in folders for path in folder.rglob("*.py")), *commands]:
        assert "training" not in set(parts_used(path)), path


def test_only_entry_points_read_command_lines():
    package = ROOT / "tganv2_tf"
    readers = {p.stem for p in package.rglob("*.py") if "cli" in set(parts_used(p)) and p.parent.name != "cli"}
    assert readers == COMMANDS


def test_data_prep_uses_only_the_contract():
    data = ("data.inspection", "data.manifest", "data.records")
    allowed = ("cli", "config", "errors", "options", "pyramid", "ray_cluster", "storage", "video_io", *data)
    for path in (ROOT / "data_prep").glob("*.py"):
        for name in imports(path):
            package, _, inside = name.partition(".")
            assert name == "tganv2_tf" or package != "tganv2_tf" or inside.startswith(allowed), f"{path} imports {name}"


def test_the_package_imports_neither_data_prep_nor_benchmarks():
    for path in (ROOT / "tganv2_tf").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"data_prep", "benchmarks"}, path
