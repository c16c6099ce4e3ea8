"""What a start gives away, and what it costs in quality not to: each start distilled and audited.

    python experiments/privacy.py [--source stdlib-calls] [--outer-steps 20]

writes experiments/results/privacy.json, a row for each start as it is done; docs/privacy.md shows
it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from farzi.artifact import read_artifact
from farzi.data import prepare
from farzi.distill import distill
from farzi.distill.parse import read_file, settings_for
from farzi.privacy import AuditSettings, audit_artifact

OUT = Path(__file__).parent / "results" / "privacy.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="stdlib-calls")
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "demo.toml")
    parser.add_argument("--starts", nargs="+", default=["teacher", "real", "random"])
    parser.add_argument("--outer-steps", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=1000)
    asked = parser.parse_args()
    data = prepare(asked.source)
    rows = []
    for start in asked.starts:
        began = time.monotonic()
        given = {"start": start, "outer": {"steps": asked.outer_steps}}
        settings = settings_for(data, read_file(asked.config), given)
        with tempfile.TemporaryDirectory() as folder:
            run = distill(data, folder, settings)
            assert run.artifact is not None
            artifact = read_artifact(run.artifact)
            seconds = time.monotonic() - began
            found = audit_artifact(artifact, data, AuditSettings(candidates=asked.candidates))
        rows.append(
            {
                "start": start,
                "loss": run.best_loss,
                "start_loss": run.start_loss,
                "outer_steps": run.outer_steps,
                "seconds": round(seconds),
                "audit": {**found.to_json(), "neighbours": len(found.neighbours)},
            }
        )
        print(rows[-1], flush=True)
        protocol = (
            f"{data.protocol_line(settings.context_length)}. {settings.num_sequences} x "
            f"{settings.length}, at most {asked.outer_steps} outer steps, seed 0. Loss: of "
            "validation events, of fresh students, in nats. The audit guesses at test users, whom "
            "nothing else saw."
        )
        OUT.write_text(json.dumps({"protocol": protocol, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
