"""Pages as one file each that needs no network: templates, and the words and charts in them.

Every text is escaped where a template shows it; only the charts, which we draw, are markup already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from fairdeploy.records.accuracy import STEPS
from fairdeploy.records.metrics import COUNTED, METRICS
from fairdeploy.reporting import accuracy_rows, chain, quantities
from fairdeploy.reporting.page import charts


def dotted(name: str) -> Markup:
    """A dotted or underscored name that may break after each part on a narrow screen."""
    return Markup("<wbr/>").join(escape(part) for part in re.split(r"(?<=[._])", name))


def _begin(words: str) -> str:
    """With a capital, as at the beginning of a sentence."""
    return words[:1].upper() + words[1:]


def draw(template: str, title: str, **values: Any) -> Markup:
    """A part of a page; if it fails, a section called ``title`` that says so: the rest stands."""
    try:
        return Markup(_ENVIRONMENT.get_template(template).render(title=title, **values))
    except Exception as problem:  # no drawing may cost a run its page
        failed = _ENVIRONMENT.get_template("failed.html")
        return Markup(failed.render(title=title, text=quantities.not_shown(problem)))


def render_page(headline: str, parts: Mapping[str, str], file: str, **values: Any) -> str:
    """The whole page as one string, with its style sheet.

    Args:
        headline: What it is about.
        parts: Template of each part, by what the part is called where it fails.
        file: Where all numbers are.
        values: What the templates show.
    """
    drawn = [draw(template, name, headline=headline, **values) for name, template in parts.items()]
    frame = _ENVIRONMENT.get_template("page.html")
    return frame.render(headline=headline, parts=drawn, file=file) + "\n"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("fairdeploy.reporting.page"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shown = (
        quantities.amount, quantities.as_fast, quantities.budget_verdict, quantities.change_text,
        quantities.count, quantities.error_text, quantities.factor, quantities.milliseconds,
        quantities.needed_text, quantities.percent, quantities.plural, quantities.points,
        quantities.repaired, quantities.seconds, quantities.short, quantities.signed,
        quantities.size, quantities.verdict_text, quantities.decided_by, quantities.multiple_text,
    )  # fmt: skip
    made.filters |= {function.__name__: function for function in shown}
    made.filters |= {"dotted": dotted, "number": "{:,}".format, "sentence": _begin}
    asked = (
        quantities.share_of, quantities.quality_name, accuracy_rows.fidelity_rows,
        accuracy_rows.second_rows,
        chain.agreement_titles,
        charts.axis_labels, charts.interval_bar, charts.latency_histogram, charts.share_bar,
        charts.ticks, charts.tod_chart,
    )  # fmt: skip
    made.globals |= {function.__name__: function for function in asked}
    made.globals |= {
        "COUNTED": {name: METRICS[name] for name in COUNTED},
        "METRICS": METRICS,
        "MISSING": quantities.MISSING,
        "NO_CLAIM": quantities.NO_CLAIM,
        "ORIGINS": quantities.ORIGINS,
        "STEPS": STEPS,
        "TIMES": quantities.TIMES,
        "chain_verdict": chain.verdict,
    }
    made.globals["m"] = made.get_template("macros.html").module
    return made


_ENVIRONMENT = _environment()
