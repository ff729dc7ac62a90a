"""Dashboard, alert rules and the page on observability speak of what there is, and of all of it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpf.clustermanager.kamaji.judge import TOLD
from dpf.provisioning.dpu.story import ATTENTION, MILESTONES
from dpf.provisioning.dpuset.controller import ROLLOUT
from dpf_api.dpu import Phase
from test.kustomize import Json, build, containers
from test.unit.exported import Exported, exported

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "config" / "observability"
PAGE = (ROOT / "docs" / "observability.md").read_text()
PREFIX = r"\b(?:dpu|bfb|dpucluster|dpf|controller_runtime|workqueue|rest_client|leader_election|process|python)_\w+"
SELECTOR = re.compile(rf"({PREFIX})\s*(?:\{{([^}}]*)\}})?")
LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPING = re.compile(r"\b(?:by|on|without|group_left)\s*\(([^)]*)\)")
FROM_PROMETHEUS = {"job", "instance"}
OURS = ("process_", "python_")
ROW = re.compile(r"^\| `([^`]+)` \|(.*)\|$", re.MULTILINE)


@pytest.fixture(scope="module")
def metrics() -> dict[str, Exported]:
    return exported()


def alerts() -> list[dict[str, Any]]:
    rule = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for alert in alerts():
        yield alert["alert"], alert["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def of_kind(kind: str, folder: Path = FOLDER) -> list[Json]:
    return [obj for obj in build(folder) if obj["kind"] == kind]


def endpoint() -> Json:
    [monitor] = of_kind("PodMonitor")
    [found] = monitor["spec"]["podMetricsEndpoints"]
    return dict(found)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_metric_and_label_asked_for_is_exported(
    where: str, expression: str, metrics: dict[str, Exported]
) -> None:
    by_series = {series: metric for metric in metrics.values() for series in metric.series}
    grouped = {label.strip() for group in GROUPING.findall(expression) for label in group.split(",") if label}
    asked = SELECTOR.findall(GROUPING.sub("", expression))
    assert asked, f"{where}: no metric in {expression}"
    for name, selector in asked:
        assert name in by_series, f"{where}: {name}"
        labels = by_series[name].labels | FROM_PROMETHEUS | {"le"}
        assert set(LABEL.findall(selector)) <= labels, f"{where}: {name}{{{selector}}}"
        assert grouped <= labels, f"{where}: {grouped - labels} of {name}"


def test_every_manager_is_scraped_as_it_serves_and_nothing_else_is() -> None:
    [monitor] = of_kind("PodMonitor")
    assert monitor["spec"].keys() == {"selector", "podMetricsEndpoints"}
    [wanted] = monitor["spec"]["selector"]["matchExpressions"]
    assert (wanted["key"], wanted["operator"]) == ("dpu.nvidia.com/component", "In")
    managers = of_kind("Deployment", ROOT / "config" / "manager")
    assert {each["metadata"]["namespace"] for each in managers} == {monitor["metadata"]["namespace"]}
    labels = [each["spec"]["template"]["metadata"]["labels"][wanted["key"]] for each in managers]
    assert sorted(labels) == sorted(wanted["values"])
    for manager in managers:
        [container] = containers(manager)
        assert endpoint()["port"] in {port["name"] for port in container["ports"]}
        assert "--metrics-secure" in container["args"]
    assert (endpoint()["scheme"], endpoint()["tlsConfig"]) == ("https", {"insecureSkipVerify": True})


def test_the_monitor_has_fields_that_the_prometheus_operator_knows_and_no_others() -> None:
    """As its API reference has them (PodMetricsEndpoint, SafeAuthorization, SafeTLSConfig); its CRDs are not here."""
    assert endpoint().keys() <= {
        *(
            "port",
            "path",
            "scheme",
            "params",
            "interval",
            "scrapeTimeout",
            "tlsConfig",
            "honorLabels",
            "honorTimestamps",
        ),
        *("basicAuth", "oauth2", "authorization", "metricRelabelings", "relabelings", "proxyUrl", "followRedirects"),
        *("enableHttp2", "filterRunning"),
    }
    assert endpoint()["authorization"].keys() <= {"type", "credentials"}
    assert endpoint()["authorization"]["credentials"].keys() == {"name", "key"}
    assert endpoint()["tlsConfig"].keys() <= {"ca", "cert", "keySecret", "serverName", "insecureSkipVerify"}


def test_the_scraper_has_a_token_and_may_read_metrics_and_nothing_else() -> None:
    [account], [secret], [role], [binding] = map(
        of_kind, ("ServiceAccount", "Secret", "ClusterRole", "ClusterRoleBinding")
    )
    assert endpoint()["authorization"]["credentials"] == {"name": secret["metadata"]["name"], "key": "token"}
    assert secret["type"] == "kubernetes.io/service-account-token"
    named = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
    where = {"name": named, "namespace": secret["metadata"]["namespace"]}
    assert account["metadata"] == where
    assert binding["subjects"] == [{"kind": "ServiceAccount", **where}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert role["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def test_labels_of_metrics_are_not_lost_to_those_that_prometheus_gives_a_pod(metrics: dict[str, Exported]) -> None:
    given = {"job", "instance", "namespace", "pod", "container", "endpoint"}
    assert {label for metric in metrics.values() for label in metric.labels & given} == {"namespace"}
    assert endpoint()["honorLabels"] is True


def test_the_dashboard_finds_the_managers_by_the_job_that_the_monitor_makes() -> None:
    [monitor] = of_kind("PodMonitor")
    job = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    patterns = [found for _, expression in expressions() for found in re.findall(r'job=~"([^"]+)"', expression)]
    assert patterns
    assert all(re.fullmatch(pattern, job) for pattern in patterns)
    assert f'up{{job="{job}"}}' in PAGE


def test_a_share_of_dpus_is_0_and_not_unknown_while_no_dpu_has_the_condition() -> None:
    """A DPU has a series for a phase always, and for a condition from the moment on when it has that."""
    [ready] = [panel["targets"][0]["expr"] for panel in panels() if panel["title"] == "Ready"]
    shares = [text for _, text in expressions() if "dpu_status_conditions" in text and " / " in text]
    assert shares == [ready]
    part, _, _ = ready.partition(" / ")
    assert re.fullmatch(r"\(sum\(dpu_status_conditions\{[^}]*\}\) or vector\(0\)\)", part)


def test_a_panel_that_counts_from_the_last_time_that_a_condition_changed_says_so() -> None:
    found = [panel for panel in panels() if "last_transition_time" in json.dumps(panel)]
    assert [(panel["title"], "lost Ready and got it back" in panel["description"]) for panel in found] == [
        ("From made to last becoming Ready", True)
    ]


def test_every_panel_has_its_place_and_no_two_have_the_same() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(places) == len(set(places))
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels())


def test_the_page_lists_every_metric_as_it_is(metrics: dict[str, Exported]) -> None:
    rows = {name: [cell.strip() for cell in rest.split("|")] for name, rest in ROW.findall(section("Metrics"))}
    own = {name: metric for name, metric in metrics.items() if not name.startswith(OURS)}
    assert rows.keys() == own.keys()
    for name, metric in own.items():
        kind, labels, text = rows[name]
        found = {label.strip("` ") for label in labels.split(",") if label.strip()}
        assert (kind, found, text) == (metric.type, set(metric.labels - {"le"}), metric.text), name


def reasons() -> set[str]:
    """Reasons of events in the code: the literal ones, and those of tables."""
    found = set(MILESTONES.values()) | set(ATTENTION) | set(ROLLOUT.values()) | set(TOLD)
    for path in (ROOT / "dpf").rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            at = {"normal": 1, "warning": 1, "Told": 0}.get(name)
            if at is None or len(call.args) <= at:
                continue
            literals = [node.value for node in ast.walk(call.args[at]) if isinstance(node, ast.Constant)]
            found |= {each for each in literals if isinstance(each, str) and re.fullmatch(r"[A-Z]\w+", each)}
    return found


def test_the_page_lists_every_event() -> None:
    listed = {name for name, _ in ROW.findall(section("Events"))}
    phases = {phase.value.replace(" ", "") for phase in Phase}
    assert reasons() - listed == set()
    assert listed - reasons() - phases == set()


def test_the_page_says_of_every_alert_what_to_do() -> None:
    headings = re.findall(r"^### (\w+)$", section("Alerts"), re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"docs/observability.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in {"warning", "critical"}
