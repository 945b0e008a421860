"""The hand-out: the six steps on paper, one HTML file that asks nothing of anybody."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from latex2mathml.converter import convert

from app.lessons.questions import Question
from app.lessons.texts import LESSONS

STYLE = """
*{box-sizing:border-box}
body{font:11pt/1.45 Georgia,"Times New Roman",serif;color:#111;background:#fff;max-width:17cm;margin:1.2cm auto;
  padding:0 .5cm}
h1{font-size:19pt;margin:0 0 .1cm}
h2{font-size:14pt;margin:0 0 .15cm;border-bottom:1px solid #999}
header p,.small{color:#444;font-size:9.5pt;margin:.1cm 0}
section{break-inside:avoid;margin:.7cm 0 0}
.formulas{margin:.2cm 0;padding:.1cm .3cm;border-left:3px solid #bbb}
math{font-size:12pt;margin:.15cm 0}
ul{list-style:none;padding:0;margin:.1cm 0 .2cm;display:flex;flex-wrap:wrap;gap:.1cm .7cm}
li::before{content:"\\2610\\00a0"}
.line{border-bottom:1px solid #777;height:.75cm}
table{border-collapse:collapse;width:100%;margin:.3cm 0 0}
th,td{border:1px solid #999;padding:.08cm .2cm;text-align:left;font-size:9.5pt;font-weight:400}
td{height:.75cm}
@page{size:A4;margin:1.6cm}
@media print{body{margin:0;padding:0;max-width:none}}
"""
COLUMNS = ("Setting", "Number", "n", "95 % interval")
ROWS = 2


def handout(model: str, data: str, questions: Sequence[Question]) -> str:
    """Six sections, each with its formulas as MathML, its question with lines to write on, and room for
    numbers; no script, nothing to load. `questions` are those of the six lessons in order."""
    sections = "\n".join(
        _section(number, question) for number, question in enumerate(questions, 1) if number <= len(LESSONS)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Q-BERT in six steps</title><style>{STYLE}</style></head><body>\n"
        f"<header><h1>Q-BERT in six steps</h1><p>Model: {escape(model)}. Data: {escape(data)}.</p>"
        '<p>Name:&nbsp;<span style="display:inline-block;width:7cm;border-bottom:1px solid #777">&nbsp;</span></p>'
        "<p>Predict first, tick or write it down, then reveal. Q-BERT: Shen et al., AAAI 2020, "
        "arXiv 1909.05840.</p></header>\n"
        f"{sections}\n</body></html>\n"
    )


def _section(number: int, question: Question) -> str:
    lesson = LESSONS[number - 1]
    formulas = "".join(convert(formula, display="block") for formula in lesson.formulas)
    options = "".join(f"<li>{escape(option)}</li>" for option in question.options)
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    cells = f"<tr>{'<td></td>' * len(COLUMNS)}</tr>" * ROWS
    return (
        f"<section><h2>{number} {escape(lesson.title)}</h2><p>{escape(lesson.text)}</p>"
        f'<div class="formulas">{formulas}</div>'
        f"<p><b>{escape(question.text)}</b></p><ul>{options}</ul>"
        f'<p class="small">Why?</p><div class="line"></div><div class="line"></div>'
        f"<table><tr>{head}</tr>{cells}</table></section>"
    )
