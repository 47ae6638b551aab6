"""Optuna's samplers: what its study holds, and what several processes make of it."""

import copy
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import IntegrityError, OperationalError

from base.seeds import derive_seed
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers import optuna_study
from search.sampling.samplers.bayes import BayesConfig, BayesSearchConfig
from search.sampling.samplers.optuna_study import OptunaSampler, SeededSampler
from supernet import get_space

STORAGES = ("journal.log", "sqlite:///study.db")

every_storage = pytest.mark.parametrize("storage", STORAGES)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new_sampler(
    model: str = "optuna_tpe",
    space: str = "nasbench201",
    seed: int = 0,
    evaluations: int = 100,
    exclude: tuple[str, ...] = (),
    evaluate: str = "supernet",
    **bayes,
) -> OptunaSampler:
    config = BayesSearchConfig(
        space=space, exclude=list(exclude), evaluations=evaluations, evaluate=evaluate, bayes=BayesConfig(model, **bayes)
    )
    return OptunaSampler(Encoding(get_space(space), exclude), config, seed)


@cache
def score(genome: Genome, share: float = 1) -> float:
    return sum(Random(f"{place} {column}").gauss(0, 1) for place, column in enumerate(genome))


def open_study(storage: str, name: str = "fusenas") -> optuna.Study:
    where = storage if "://" in storage else JournalStorage(JournalFileBackend(storage))
    return optuna.load_study(study_name=name, storage=where)


def told_to(sampler: OptunaSampler, genomes: list[Genome]) -> None:
    sampler.tell([(genome, score(genome)) for genome in genomes])


def advance(sampler: OptunaSampler, count: int) -> list[Genome]:
    asked = []
    for _ in range(count):
        asked += (new := sampler.ask())
        told_to(sampler, new)
    return asked


def states(study: optuna.Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials)


# What a study holds


@pytest.mark.parametrize(("space", "storage"), [("darts", "journal.log"), ("nasbench201", "sqlite:///study.db")])
def test_the_trials_of_a_study_are_what_was_told(space: str, storage: str) -> None:
    sampler = new_sampler(space=space, storage=storage, study="mine", initial=4)
    asked = advance(sampler, 8)
    study = open_study(storage, "mine")
    assert study.direction.name == "MAXIMIZE"
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.value for trial in trials] == [score(genome) for genome in asked]
    encoding = sampler.encoding
    for trial, genome in zip(trials, asked, strict=True):
        genotype = encoding.genotype(genome)
        assert genotype.parse(trial.user_attrs["genotype"]).cells == genotype.cells
        for variable, value in zip(encoding.variables, encoding.values(genome), strict=True):
            name = value if variable.is_inputs else encoding.space.candidates[encoding.operations[value]]
            assert trial.params[variable.name] == name
        assert len(trial.params) == len(encoding.variables)


@every_storage
def test_what_others_are_told_without_fails(storage: str) -> None:
    sampler = new_sampler(storage=storage)
    asked = [sampler.ask()[0] for _ in range(5)]
    assert states(open_study(storage)) == {"RUNNING": 5}
    told_to(sampler, asked[1:2])
    told_to(sampler, asked[3:4])
    assert states(open_study(storage)) == {"RUNNING": 3, "COMPLETE": 2}
    sampler.ask()
    study = open_study(storage)
    assert [trial.state.name for trial in study.trials[:5]] == ["FAIL", "COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    # Too late, but better than never.
    told_to(sampler, asked[:1])
    finished = open_study(storage).get_trials(states=(TrialState.COMPLETE,))
    assert [trial.value for trial in finished] == [score(asked[place]) for place in (1, 3, 0)]
    assert finished[-1].user_attrs["genotype"] == study.trials[0].user_attrs["genotype"]


def test_no_architecture_is_evaluated_twice() -> None:
    """Most proposals from a space with 64 architectures are known after a while."""
    sampler = new_sampler(exclude=("none", "nor_conv_1x1", "avg_pool_3x3"), initial=50)
    asked = advance(sampler, 64)
    assert len(set(asked)) == len(asked) == 64
    assert sampler.ask() == []


def test_those_that_are_being_evaluated_are_not_asked_for_either() -> None:
    sampler = new_sampler(exclude=("none", "nor_conv_1x1", "avg_pool_3x3"))
    asked = [genome for _ in range(64) for genome in sampler.ask()]
    assert len(set(asked)) == 64 and sampler.ask() == []


def test_it_learns() -> None:
    asked = advance(new_sampler(), 60)
    first, last = asked[:10], asked[-10:]
    assert min(map(score, last)) > sum(map(score, first)) / 10
    ranks = sorted(map(score, Encoding(get_space("nasbench201")).all()), reverse=True)
    assert ranks.index(max(map(score, asked))) < 40, "among the best of 15,625"


# What a proposal depends on


@pytest.mark.parametrize(
    ("model", "space", "count", "further"),
    [("optuna_tpe", "darts", 20, 10), ("optuna_tpe", "nasbench201", 25, 20), ("optuna_gp", "nasbench201", 8, 2)],
)
def test_it_goes_on_bit_for_bit_from_a_checkpoint(model: str, space: str, count: int, further: int) -> None:
    """Also with trials that are running, that failed, and that were told too late."""
    sampler = new_sampler(model, space, initial=8)
    advance(sampler, count)
    late = sampler.ask() + sampler.ask()
    told_to(sampler, sampler.ask())
    sampler.ask()
    told_to(sampler, late[:1])
    sampler.ask()
    state = copy.deepcopy(sampler.state_dict())
    expected = advance(sampler, further)
    resumed = new_sampler(model, space, initial=8)
    resumed.load_state_dict(state)
    assert advance(resumed, further) == expected
    old, new = sampler.state_dict(), resumed.state_dict()
    assert old == new


def test_trials_that_are_added_count_as_those_that_were_asked_for() -> None:
    """A study that is made anew of its trials proposes the same as the one that they were told."""

    distributions = {name: CategoricalDistribution(list("abcde")) for name in "zyxwvu"}

    def new_study() -> optuna.Study:
        sampler = SeededSampler(lambda seed: TPESampler(seed=seed, n_startup_trials=5), 3, distributions)
        return optuna.create_study(direction="maximize", sampler=sampler)

    told = new_study()
    for number in range(30):
        made = new_study()
        for trial in told.trials:
            made.add_trial(
                create_trial(state=trial.state, value=trial.value, params=trial.params, distributions=trial.distributions)
            )
        expected, found = told.ask(distributions), made.ask(distributions)
        assert expected.params == found.params
        if number % 5 != 4:  # some are left running
            told.tell(expected, sum(map(ord, expected.params.values())) % 17)


@every_storage
def test_what_was_left_out_before_a_checkpoint_fails_after_it(storage: str) -> None:
    sampler = new_sampler(storage=storage)
    told_to(sampler, (sampler.ask() + sampler.ask())[:1])
    resumed = new_sampler(storage=storage)
    resumed.load_state_dict(sampler.state_dict())
    resumed.ask()
    assert states(open_study(storage)) == {"COMPLETE": 1, "FAIL": 1, "RUNNING": 1}


@pytest.mark.parametrize("new", [TPESampler, GPSampler])
def test_a_proposal_is_that_of_optunas_own_sampler(new: type[BaseSampler]) -> None:
    """Optuna's is made anew for the trial with its seed, and finds out for itself which parameters trials have."""
    counts = {"z": 3, "y": 4, "x": 1, "w": 2, "v": 5}
    distributions = {name: CategoricalDistribution(list(range(count))) for name, count in counts.items()}
    seeded = SeededSampler(lambda seed: new(seed=seed, n_startup_trials=3), 0, distributions)
    ours, theirs = (optuna.create_study(direction="maximize", sampler=seeded) for _ in range(2))
    for number in range(7):
        theirs.sampler = new(seed=derive_seed(0, "optuna", number) % 2**32, n_startup_trials=3)
        expected, found = theirs.ask(distributions), ours.ask(distributions)
        assert expected.params == found.params
        for study, trial in ((theirs, expected), (ours, found)):
            study.tell(trial, float(sum(trial.params.values())))


@every_storage
def test_what_a_checkpoint_still_waits_for_goes_on(storage: str) -> None:
    worker = new_sampler(storage=storage)
    (asked,) = worker.ask()
    resumed = new_sampler(storage=storage)
    resumed.load_state_dict(worker.state_dict())
    assert states(open_study(storage)) == {"RUNNING": 1}
    told_to(resumed, [asked])
    assert states(open_study(storage)) == {"COMPLETE": 1}


def test_proposals_of_two_workers_differ_even_with_one_seed() -> None:
    first, second = new_sampler(storage="journal.log"), new_sampler(storage="journal.log")
    asked = [genome for _ in range(10) for sampler in (first, second) for genome in sampler.ask()]
    assert len(set(asked)) == 20


# Workers


@every_storage
def test_a_worker_gathers_what_others_have_found(storage: str) -> None:
    first, second = new_sampler(storage=storage), new_sampler(storage=storage, seed=1)
    own, others = advance(first, 4), advance(second, 3)
    second.ask()
    assert dict(first.gathered()) == {genome: score(genome) for genome in others}
    assert dict(second.gathered()) == {genome: score(genome) for genome in own}
    assert new_sampler().gathered() == ()


def test_all_workers_end_when_the_study_is_complete() -> None:
    first = new_sampler(storage="journal.log", evaluations=6)
    second = new_sampler(storage="journal.log", evaluations=6)
    advance(first, 3)
    advance(second, 2)
    (last,) = first.ask()
    assert second.ask() != [], "what is running may still fail"
    told_to(first, [last])
    assert first.ask() == [] and second.ask() == []
    more = new_sampler(storage="journal.log", evaluations=7)
    assert len(more.gathered()) == 6 and len(more.ask()) == 1


@every_storage
def test_a_worker_that_was_killed_goes_on(storage: str) -> None:
    worker, other = new_sampler(storage=storage), new_sampler(storage=storage)
    advance(worker, 2)
    other.ask()
    (asked,) = worker.ask()
    checkpoint = copy.deepcopy(worker.state_dict())
    # After the checkpoint it is told one score and asks for more.
    told_to(worker, [asked])
    (after,) = worker.ask()
    told_to(worker, [after])
    worker.ask()
    assert states(open_study(storage)) == {"COMPLETE": 4, "RUNNING": 2}
    resumed = new_sampler(storage=storage)
    resumed.load_state_dict(checkpoint)
    study = open_study(storage)
    assert states(study) == {"COMPLETE": 4, "RUNNING": 1, "FAIL": 1}
    assert [trial.number for trial in study.trials if trial.state == TrialState.RUNNING] == [2], "that of the other"
    # What it had asked for is told again, but counts once; what it had found since is not lost.
    told_to(resumed, [asked])
    assert states(open_study(storage))["COMPLETE"] == 4
    assert dict(resumed.gathered()) == {after: score(after)}
    assert len(resumed.ask()) == 1


WORKERS = """
    import os, signal, sys, time
    from pathlib import Path
    from random import Random

    import search.sampling.samplers.optuna_study
    from search.bayes import METHOD
    from search.sampling.encoding import Encoding
    from search.sampling.trials import Trials
    from supernet import get_space

    TABLE = {(place, column): Random(f"{place} {column}").gauss(0, 1) for place in range(6) for column in range(5)}
    OPTIONS = ["--evaluations=24", "--bayes.model=optuna_tpe", "--bayes.initial=8", "--bayes.storage=journal.log"]


    def wait_for(*names):
        while not all(map(os.path.exists, names)):
            time.sleep(0.01)


    def work(number):
        def score(genome, share):
            Path(f"begun {number}").touch()
            if number == 0 and len(trials.done) == 2:
                wait_for("begun 1", "begun 2", "begun 3")
                Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if number > 0 and trials.done:
                wait_for("killed")  # so that all are at work then, however they share the processors
            return sum(map(TABLE.get, enumerate(genome)))

        config, _ = METHOD.parse(["--space=nasbench201", *OPTIONS])
        trials = Trials(METHOD.sampler(Encoding(get_space("nasbench201")), config, config.seed), score)
        trials.advance(24)
        Path(f"{number}.txt").write_text(" ".join(str(trial.score) for trial in trials.done))


    workers = []
    for number in range(4):
        workers.append(os.fork())
        if not workers[-1]:
            signal.alarm(120)
            work(number)
            os._exit(0)
    print(*(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers))
"""


@pytest.mark.slow
def test_of_four_workers_one_is_killed_while_it_evaluates() -> None:
    """The study has all evaluations nevertheless, and each once; what the killed one had told is among them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(WORKERS)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=180)
    assert done.stdout.split() == [str(-signal.SIGKILL), "0", "0", "0"]
    study = open_study("journal.log")
    found = states(study)
    assert 24 <= found["COMPLETE"] <= 26, "each of the others may have been evaluating when the last one was told"
    assert found["RUNNING"] == 1, "what the killed worker was evaluating"
    by_worker: dict[str, list[float]] = {}
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        by_worker.setdefault(trial.user_attrs["worker"], []).append(trial.value)
    (lost,) = (trial for trial in study.trials if trial.state == TrialState.RUNNING)
    assert len(by_worker.pop(lost.user_attrs["worker"])) == 2
    expected = [sorted(map(float, Path(f"{number}.txt").read_text().split())) for number in (1, 2, 3)]
    assert sorted(map(sorted, by_worker.values())) == sorted(expected)


def test_a_database_that_another_worker_is_making_is_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    failures, real = [OperationalError, IntegrityError], optuna_study.RDBStorage

    def busy(url: str) -> RDBStorage:
        if failures:
            raise failures.pop()("CREATE TABLE studies", None, Exception("table studies already exists"))
        return real(url)

    monkeypatch.setattr(optuna_study, "RDBStorage", busy)
    monkeypatch.setattr(optuna_study, "OPENING_WAITS", (0.0, 0.0))
    assert new_sampler(storage="sqlite:///study.db").ask() and not failures
    failures += [OperationalError] * 3
    with pytest.raises(ValueError, match=r"^bayes.storage: sqlite:///study.db: table studies already exists$"):
        new_sampler(storage="sqlite:///study.db")


# What is refused


def damaged(content: bytes) -> Callable[[], str]:
    def write() -> str:
        Path("damaged").write_bytes(content)
        return "damaged"

    return write


def damaged_database(keep: int) -> Callable[[], str]:
    def write() -> str:
        url = "sqlite:///damaged.db"
        new_sampler(storage=url)
        whole = Path("damaged.db").read_bytes()
        Path("damaged.db").write_bytes(whole[:keep].ljust(len(whole), b"\xff") if keep else b"no database" * 1000)
        return url

    return write


def folder() -> str:
    Path("folder").mkdir()
    return "folder"


JOURNAL = "no journal of Optuna, or a damaged one; name another file, or a URL such as sqlite:///study.db"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (damaged(b"some text\nand more\n"), JOURNAL),
        (damaged(bytes(range(256)) * 4), JOURNAL),
        (damaged(b'{"op_code": 0}\n'), JOURNAL),
        (damaged(b"[1, 2]\n3\n"), JOURNAL),
        (folder, "Is a directory; name a file of Optuna's journal"),
        (lambda: "nowhere/journal.log", "No such file or directory; name a file of Optuna's journal"),
        (damaged_database(0), "file is not a database"),
        (damaged_database(100), "database disk image is malformed"),
        (lambda: "sqlite:///nowhere/study.db", "unable to open database file"),
        (lambda: "oracel://host/db", "Can't load plugin: sqlalchemy.dialects:oracel"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused(make: Callable[[], str], reason: str) -> None:
    storage = make()
    with pytest.raises(ValueError) as refused:
        new_sampler(storage=storage)
    message = str(refused.value)
    assert message.startswith(f"bayes.storage: {storage}: {reason}") and "\n" not in message


def test_a_storage_that_breaks_on_the_way_is_said_in_one_line() -> None:
    sampler = new_sampler(storage="sqlite:///study.db")
    sampler.ask()
    with sqlite3.connect("study.db") as connection:
        connection.execute("DROP TABLE trial_params")
        connection.execute("DROP TABLE trials")
    with pytest.raises(ValueError, match=r"^bayes.storage: sqlite:///study.db: .*no such table: tr\w+$"):
        sampler.ask()


@every_storage
@pytest.mark.parametrize(
    ("options", "different"),
    [
        ({"space": "darts"}, "space and variables"),
        ({"exclude": ("none",)}, "variables"),
        ({"evaluate": "synflow"}, "evaluate"),
    ],
)
def test_a_study_of_something_else_is_refused(storage: str, options: dict, different: str) -> None:
    advance(new_sampler(storage=storage), 1)
    new_sampler(storage=storage, **options, study="another")
    with pytest.raises(ValueError, match=f"^bayes.study: fusenas exists with other {different}; set the same, or name another"):
        new_sampler(storage=storage, **options)
    assert states(open_study(storage)) == {"COMPLETE": 1}


def test_a_study_of_another_program_is_refused() -> None:
    storage = JournalStorage(JournalFileBackend("journal.log"))
    optuna.create_study(storage=storage, study_name="small", direction="minimize")
    optuna.create_study(storage=storage, study_name="two", directions=["maximize", "minimize"])
    optuna.create_study(storage=storage, study_name="full", direction="maximize").add_trial(create_trial(value=1.0))
    for name, reason in (
        ("small", "exists and does not maximize one value; name another"),
        ("two", "exists and does not maximize one value; name another"),
        ("full", "exists and is of another program; name another"),
    ):
        with pytest.raises(ValueError, match=f"^bayes.study: {name} {reason}$"):
            new_sampler(storage="journal.log", study=name)


# What is said


@pytest.mark.filterwarnings("error")
def test_optuna_keeps_silent_and_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    advance(new_sampler("optuna_gp", initial=3), 5)
    for _ in range(2):
        advance(new_sampler(storage="journal.log"), 2)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before == logging.INFO


@every_storage
def test_scores_of_two_sorts_are_never_mixed(storage: str) -> None:
    """Of other data, tables or settings: whatever a score depends on."""
    first = new_sampler(storage=storage)
    first.begin({"evaluate": "table", "table": "0123"})
    advance(first, 1)
    new_sampler(storage=storage).begin({"evaluate": "table", "table": "0123"})
    for other, different in (
        ({"evaluate": "table", "table": "4567"}, "table"),
        ({"evaluate": "table"}, "table"),
        ({"evaluate": "table", "table": "0123", "images": "89ab"}, "images"),
    ):
        with pytest.raises(ValueError, match=f"^bayes.study: fusenas exists with other {different}; set the same, or name"):
            new_sampler(storage=storage).begin(other)
    new_sampler(storage=storage, study="another").begin({"evaluate": "table", "table": "4567"})
    assert states(open_study(storage)) == {"COMPLETE": 1}


@pytest.mark.parametrize("content", ['{"a": 1}', '{"a": 1}\n', "notes", "notes\n", "[1]\n", "[" * 100_000, "7\n"])
def test_a_file_of_the_user_is_left_as_it_is(content: str) -> None:
    Path("mine.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^bayes.storage: mine.json: {JOURNAL}$"):
        new_sampler(storage="mine.json")
    assert Path("mine.json").read_text() == content and os.listdir() == ["mine.json"]


def test_an_empty_file_becomes_a_journal() -> None:
    Path("journal.log").touch()
    advance(new_sampler(storage="journal.log"), 1)
    assert states(open_study("journal.log")) == {"COMPLETE": 1}


@pytest.mark.parametrize("table", ["notes", "trials", "alembic_version"])
def test_a_database_of_another_program_is_left_as_it_is(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_study, "OPENING_WAITS", (0.01, 0.01))
    with sqlite3.connect("mine.db") as connection:
        connection.execute(f"CREATE TABLE {table} (text TEXT)")
    before = Path("mine.db").read_bytes()
    with pytest.raises(ValueError, match=r"^bayes.storage: sqlite:///mine.db: has tables of another program; name another$"):
        new_sampler(storage="sqlite:///mine.db")
    assert Path("mine.db").read_bytes() == before


def test_a_line_that_was_cut_short_is_not_written_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed amid a line leaves a half of it; one that lives writes the rest."""
    monkeypatch.setattr(optuna_study, "OPENING_WAITS", (0.01, 0.01))
    advance(new_sampler(storage="journal.log"), 1)
    journal = Path("journal.log")
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    with pytest.raises(ValueError, match=r"^bayes.storage: journal.log: its last line was cut short, .* remove that line"):
        new_sampler(storage="journal.log")
    assert journal.read_bytes() == whole + b'{"op_code":4,"wor' and os.listdir() == ["journal.log"]
    journal.write_bytes(whole)
    advance(new_sampler(storage="journal.log"), 1)
    assert states(open_study("journal.log")) == {"COMPLETE": 2}


@pytest.mark.parametrize("url", ["oracel://me:secret@host/db", "oracel://me:secret@host:port/db"])
def test_a_password_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"^bayes\.storage: .*host") as refused:
        new_sampler(storage=url)
    assert "secret" not in str(refused.value)
