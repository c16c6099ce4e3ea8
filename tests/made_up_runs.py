"""Runs of a comparison with scores and times as a test wants them."""

from farzi.experiments.comparison import compare_runs
from farzi.experiments.results import Choice, Look, Run, Training

RANKING = {"HR@10": 0.5, "HR@100": 0.8, "nDCG@10": 0.25, "nDCG@100": 0.4, "loss": 5.0}


def training(loss=5.0, seconds=10.0, total=12.0, stopped="validation", curve=(), step=40):
    curve = curve or ((20, seconds / 2, loss + 1), (step, seconds, loss), (50, total, loss + 0.1))
    return Training(step, loss, 800, seconds, total, stopped, tuple(Look(*look) for look in curve))


def run(row, split=0, seed=0, metrics=None, per_user=None, **kwargs):
    users = {} if per_user is None else {name: tuple(each) for name, each in per_user.items()}
    values = {"choice": Choice(0.01, 10), "training": training(), **kwargs}
    return Run(row, split, seed, 5, 100, 400, metrics or RANKING, users, **values)


def compared(runs, task="recommend", splits=(0,), **kwargs):
    order = dict.fromkeys(run.row for run in runs)
    tests = dict.fromkeys(splits, 2)
    return compare_runs(
        runs, task=task, protocol_line="toy", order=list(order), test_sequences=tests, **kwargs
    )
