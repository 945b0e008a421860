"""The page Export: plan out and in, the packed model as a job, the report, and tables no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from dataclasses import replace
from math import isfinite
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.csvs import STARTS, cell, csv_text
from app.exports import (
    MAX_PLAN,
    arguments,
    export_folder,
    exports_home,
    file_name,
    plan_from_file,
    plan_text,
    sites_csv,
    zipped,
)
from app.figures import fmt_lambda, fmt_points_interval, fmt_signed_points
from app.link import plan_to_text
from app.views.export import report_text
from app.workspace import Source, Workspace
from qbert_core.cli import main, parser
from qbert_core.errors import InputError
from qbert_core.export import load_exported
from qbert_core.quantization import plan_size, sites_of
from qbert_core.runtime.events import Silent
from tests.app.speaker import Speaker
from tests.app.test_curvature_pages import at_page, press, words
from tests.app.test_pages import Visit, demo, visit  # noqa: F401
from tests.app.tools import own_plans, until

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)


SIGNED = r"[+-][0-9][0-9.e+ to%p\u00a0\u2212-]*"


def says_numbers(text: str) -> bool:
    """Whether Python reads a text, without its unit, as a number or as two with "to" between."""
    bare = re.sub("[ \u00a0](%|pp)$", "", text).replace("\N{MINUS SIGN}", "-")
    try:
        return all(map(isfinite, map(float, bare.split(" to ", 1)))) and bare == bare.strip()
    except ValueError:
        return False


class TestCsv:
    """Tables as CSV."""

    @given(st.lists(st.lists(texts, min_size=2, max_size=2), max_size=5))
    def test_no_cell_begins_like_a_formula_and_no_text_is_lost(self, rows: list[list[str]]) -> None:
        read = list(csv.reader(io.StringIO(csv_text(["a", "b"], rows), newline="")))
        assert read[0] == ["a", "b"]
        for row, back in zip(rows, read[1:], strict=True):
            for value, found in zip(row, back, strict=True):
                assert not found.startswith(STARTS) or (re.fullmatch(SIGNED, found) and says_numbers(found))
                assert value in (found, found[1:])

    @pytest.mark.parametrize("start", STARTS)
    def test_formulas_become_texts(self, start: str) -> None:
        assert cell(f"{start}1+HYPERLINK(1)") == f"'{start}1+HYPERLINK(1)"
        assert cell(f"{start}HYPERLINK(1)") == f"'{start}HYPERLINK(1)"
        assert csv_text([f"{start}x"], []).startswith(("'", "\"'"))

    @pytest.mark.parametrize("text", [fmt_signed_points(0.05), fmt_points_interval(0.01, 0.02), fmt_lambda(28.3)])
    def test_numbers_with_their_units_are_no_formulas(self, text: str) -> None:
        assert text.startswith("+")
        assert cell(text) == text

    def test_numbers_keep_their_sign(self) -> None:
        assert csv_text(["x", "y"], [[-1.5, 2], [None, -3]]) == "x,y\r\n-1.5,2\r\n,-3\r\n"


class TestPlanFile:
    """A plan as a file, and back in."""

    def test_what_goes_out_comes_back(self, workspace: Workspace) -> None:
        for plan in (*workspace.presets, *own_plans(workspace, 2)):
            assert plan_from_file(plan_text(plan).encode(), workspace) == plan

    def test_a_document_with_a_plan_in_it_will_do(self, workspace: Workspace) -> None:
        (plan,) = own_plans(workspace, 1)
        document = {"plan": plan.to_json(), "size_mb": 3}
        assert plan_from_file(json.dumps(document).encode(), workspace) == plan

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not JSON"),
            (b"\xff\xfe\x00", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b"[1]", "not a plan"),
            (b'{"schema": 1, "sites": {}}', "no entry for"),
            (b'{"schema": 7, "sites": {}}', "schema 7"),
            (b" " * (MAX_PLAN + 1), "at most"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said(self, workspace: Workspace, content: bytes, message: str) -> None:
        with pytest.raises(InputError, match=message):
            plan_from_file(content, workspace)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("qbert-4", "qbert-4.json"),
            ("../../etc/passwd", "etc-passwd.json"),
            ("\u202e", "plan.json"),
            ("", "plan.json"),
        ],
    )
    def test_file_names_are_plain(self, workspace: Workspace, name: str, expected: str) -> None:
        assert file_name(replace(workspace.start, name=name), "json") == expected

    def test_the_table_adds_up_to_the_plans_size(self, workspace: Workspace) -> None:
        config, plan = workspace.checkpoint.config, own_plans(workspace, 1)[0]
        rows = list(csv.DictReader(io.StringIO(sites_csv(workspace, plan))))
        assert [row["site"] for row in rows] == [site.name for site in sites_of(config)]
        stored = sum(int(row["code_bytes"]) + int(row["range_bytes"]) for row in rows)
        biases = 4 * sum(
            shape[0] for layer in range(config.layers) for shape in config.encoder_shapes(layer).values()
            if len(shape) == 1
        )  # fmt: skip
        norm = 2 * 4 * config.hidden
        assert (stored + biases + norm) / 2**20 == plan_size(config, plan).size_mb


class TestFolder:
    """Where exports are kept."""

    def test_another_plan_layout_or_data_is_another_folder(self, workspace: Workspace, home: Path) -> None:
        one, two = own_plans(workspace, 2)
        other = replace(workspace, source=replace(workspace.source, limit=3))
        made = {
            export_folder(workspace, one, "one-width"), export_folder(workspace, two, "one-width"),
            export_folder(workspace, one, "mixed"), export_folder(other, one, "mixed"),
        }  # fmt: skip
        assert len(made) == 4
        assert {path.parent for path in made} == {exports_home()} == {home / "exports"}

    def test_the_command_makes_the_folder_and_the_zip_holds_it(
        self, workspace: Workspace, folder: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        plan = workspace.start
        assert main(arguments(workspace, plan, "mixed")) == 0
        where = export_folder(workspace, plan, "mixed")
        assert json.loads(capsys.readouterr().out)["folder"] == str(where)
        with zipfile.ZipFile(io.BytesIO(zipped(where))) as archive:
            archive.extractall(tmp_path / "unzipped")
        assert load_exported(tmp_path / "unzipped" / where.name).plan == plan


def test_the_report_of_the_page_holds_the_plans_numbers(workspace: Workspace) -> None:
    plan = workspace.start
    *_, result = workspace.evaluator.stream(plan, events=Silent())
    text = report_text(workspace, plan, result)
    assert f"{100 * result.score.value:.2f} %" in text
    assert f"n = {result.n:,} of {result.n:,}" in text
    assert "paired bootstrap" in text
    assert "plan.json" in text


@pytest.mark.usefixtures("folder", "demo")
class TestPage:
    """The page itself."""

    @pytest.fixture
    def page(self, source: Source) -> Visit:
        return at_page(source, "export")

    def test_it_says_what_can_be_taken(self, page: Visit, workspace: Workspace) -> None:
        assert [title.value for title in page.at.title] == ["Export"]
        labels = {button.proto.label for button in page.at.main.get("download_button")}
        assert {"Plan as JSON", "Sites as CSV", "Report as HTML"} <= labels
        assert f"`{workspace.start.name}`" in words(page.at)
        assert not exports_home().exists(), "looking makes nothing"

    def test_export_runs_a_command_the_command_line_takes(
        self, page: Visit, speaker: Speaker, source: Source, workspace: Workspace
    ) -> None:
        press(page, "Export")
        until(lambda: speaker.commands, "a job")
        asked = parser().parse_args(speaker.commands[0])
        assert (asked.model, asked.plan, asked.layout) == (source.model, workspace.start.name, "one-width")
        assert asked.replace
        assert Path(asked.save) == export_folder(workspace, workspace.start, "one-width")
        page.until(lambda at: any(b.label == "Cancel" for b in at.main.button), "the job is under way")
        press(page, "Cancel")
        page.until(lambda at: "Cancelled" in words(at), "the page says so")

    def test_a_failed_export_says_why(self, page: Visit, speaker: Speaker) -> None:
        speaker.fail("/there: No space left on device; nothing was changed")
        press(page, "Export")
        page.until(lambda at: "No space left" in words(at), "the reason")

    def test_a_real_export_is_shown_with_its_folder_and_code(
        self, page: Visit, workspace: Workspace, speaker: Speaker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        press(page, "Export")
        until(lambda: speaker.commands, "a job")
        assert main(speaker.commands[0][:-2]) == 0  # without the job's --out
        speaker.give(json.loads(capsys.readouterr().out))
        where = export_folder(workspace, workspace.start, "one-width")
        page.until(lambda at: "Done in" in words(at), "the export")
        shown = [code.value for code in page.at.main.code]
        assert shown[0] == str(where)
        assert "from_pretrained" in shown[1]
        assert load_exported(where).plan == workspace.start
        assert any(b.proto.label == "Folder as ZIP" for b in page.at.main.get("download_button"))

    def test_an_opened_plan_is_the_sessions_and_a_wrong_file_changes_nothing(
        self, page: Visit, workspace: Workspace
    ) -> None:
        (plan,) = own_plans(workspace, 1)
        (upload,) = page.at.main.get("file_uploader")
        upload.set_value(("plan.json", plan_text(plan).encode(), "application/json"))
        page.run()
        assert page.plan(workspace).digest == plan.digest
        assert "own 0" in "\n".join(s.value for s in page.at.main.success)
        (upload,) = page.at.main.get("file_uploader")
        upload.set_value(("plan.json", b'{"sites": "![x](http://evil)"}', "application/json"))
        page.run()
        assert page.plan(workspace).digest == plan.digest
        assert "not a plan" in words(page.at)

    def test_a_recipe_is_there_where_the_plan_maps_and_else_the_reason(
        self, source: Source, workspace: Workspace
    ) -> None:
        rows = workspace.start  # as many groups as the tiny model has rows, or more
        (groups,) = own_plans(workspace, 1)
        for plan, maps in ((rows, True), (groups, False)):
            seen = visit(source, plan=plan_to_text(plan))
            seen.settled()
            seen.turn_to("export")
            labels = {button.proto.label for button in seen.at.main.get("download_button")}
            assert ("llm-compressor recipe" in labels) == maps
            assert ("Not for this plan: bert.encoder.layer.0" in words(seen.at)) != maps
