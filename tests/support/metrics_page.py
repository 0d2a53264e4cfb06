"""The table of docs/metrics.md, written from shared/metrics.py: python -m tests.support.metrics_page"""

from __future__ import annotations

from pathlib import Path

from shared.counting import Where
from shared.metrics import all_metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_BEGIN, _END = "<!-- the table, by `make readme` -->\n", "<!-- the end of the table -->\n"
_SAID: dict[Where, str] = {"web": "web", "worker": "worker", "both": "web, worker"}


def metrics_page() -> str:
    """The page as the metrics are now."""
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    lines = ["| Metric | Kind | Labels | Told by | What it is |", "|---|---|---|---|---|"]
    for metric in all_metrics():
        labels = ", ".join(metric.labels)
        lines.append(f"| `{metric.full_name}` | {metric.kind} | {labels} | {_SAID[metric.where]} | {metric.help} |")
    return before + _BEGIN + "\n" + "\n".join(lines) + "\n\n" + _END + after


if __name__ == "__main__":
    PAGE.write_text(metrics_page())
