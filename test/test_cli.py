"""The command line: one table, late imports, and errors that are sentences."""

import subprocess
import sys
import types

import pytest

from actdistill_ros import cli
from actdistill_ros.contract.contract import ContractError


@pytest.fixture
def command(monkeypatch):
    """Makes `actdistill try` run a function."""

    def make(run):
        module = types.ModuleType("try_module", "`actdistill try`: a try.")
        module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=0)
        module.run = run
        monkeypatch.setitem(sys.modules, "try_module", module)
        monkeypatch.setitem(cli.COMMANDS, "try", ("try_module", "a try"))

    return make


def raising(error):
    def run(args):
        raise error

    return run


def test_help_imports_no_subcommand():
    code = "import sys\nfrom actdistill_ros import cli\ncli.main(['--help'])\nprint(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name, (module, _) in cli.COMMANDS.items():
        assert name in loaded
        assert f"'{module}'" not in loaded
    assert "'numpy'" not in loaded and "'torch'" not in loaded


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_subcommand_explains_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*name.split(), "--help"])
    assert end.value.code == 0
    assert f"usage: actdistill {name}" in capsys.readouterr().out


def test_a_subcommand_gets_its_arguments_and_gives_its_exit_code(command):
    command(lambda args: args.number)
    assert cli.main(["try", "--number", "5"]) == 5


def test_subcommands_of_two_words_win_over_those_of_one():
    assert cli.select(["bench", "images", "--json", "x"]) == ("bench images", ["--json", "x"])


def test_an_error_of_this_package_is_one_sentence_and_exit_code_2(command, capsys):
    command(raising(ContractError("the checkpoint has no cameras.")))
    assert cli.main(["try"]) == 2
    assert capsys.readouterr().err == "actdistill try: the checkpoint has no cameras.\n"


def test_a_missing_file_is_one_sentence_and_exit_code_2(command, capsys):
    command(raising(FileNotFoundError(2, "No such file or directory", "models/x")))
    assert cli.main(["try"]) == 2
    assert "models/x" in capsys.readouterr().err


def test_a_missing_python_module_says_how_to_get_it(command, capsys):
    command(raising(ModuleNotFoundError("No module named 'rclpy'", name="rclpy")))
    assert cli.main(["try"]) == 2
    assert "needs the Python module rclpy, which is not here. Run make setup." in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(command):
    command(raising(ValueError("surprise")))
    with pytest.raises(ValueError, match="surprise"):
        cli.main(["try"])


def test_ctrl_c_says_so_and_exits_130(command, capsys):
    command(raising(KeyboardInterrupt()))
    assert cli.main(["try"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["dance"], ["bench"]])
def test_words_that_are_no_subcommand_show_the_table_and_exit_2(words, capsys):
    assert cli.main(words) == 2
    assert "bench images" in capsys.readouterr().err
