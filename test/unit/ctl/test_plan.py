"""``dpfctl plan``: from manifests to what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dpf.ctl import plan
from dpf.runtime.errors import ConfigError
from dpf.runtime.meta import Object
from dpf_api.bfb import BFB
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import GROUP
from test.unit.ctl.objects import dpu, dpuset, node

API = f"{GROUP}/v1alpha1"


def bfb(name: str, url: str = "http://x/y.bfb", phase: str = "Ready", uid: str = "u") -> BFB:
    body = {"metadata": {"name": name, "namespace": "ns", "uid": uid}, "spec": {"url": url}, "status": {"phase": phase}}
    return BFB.model_validate(body)


def flavor(name: str, **spec: Any) -> DPUFlavor:
    return DPUFlavor.model_validate({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})


def worked_out(objects: list[Object], live: list[Object]) -> plan.Plan:
    return plan.work_out(objects, live, [node("a")], [dpu("a")])


def test_what_a_set_names_must_be_there_or_in_the_manifests() -> None:
    live: list[Object] = [dpuset(), bfb("old"), flavor("flavor")]
    assert worked_out([dpuset()], live).sets[0].notes == []
    (note,) = worked_out([dpuset(bfb="new")], live).sets[0].notes
    assert note.startswith("there is no BFB 'new'")
    assert worked_out([dpuset(bfb="new"), bfb("new", uid="", phase="Initializing")], live).sets[0].notes == []
    (note,) = worked_out([dpuset()], [dpuset(), bfb("old", phase="Error"), flavor("flavor")]).sets[0].notes
    assert note == "BFB old is Error: DPUs wait until it is Ready"


def test_an_image_in_the_same_manifests_does_not_hide_that_the_one_that_is_there_failed() -> None:
    live: list[Object] = [dpuset(), bfb("old", phase="Error"), flavor("flavor")]
    (note,) = worked_out([bfb("old", uid="", phase="Initializing"), dpuset()], live).sets[0].notes
    assert note == "BFB old is Error: DPUs wait until it is Ready"


def test_a_changed_image_or_flavor_is_refused_and_says_what_to_do_instead() -> None:
    objects: list[Object] = [bfb("old", "http://x/z.bfb"), flavor("flavor", grub={"kernelParameters": ["a=b"]})]
    refusals = worked_out(objects, [bfb("old"), flavor("flavor")]).refusals
    assert len(refusals) == 2
    assert all("1 DPUs use it" in each and "another name" in each for each in refusals)


def test_an_unchanged_image_with_its_defaults_filled_in_is_the_same() -> None:
    spec = {"url": "http://x/y.bfb", "fileName": "ns-old.bfb"}
    live = BFB.model_validate({"metadata": {"name": "old", "namespace": "ns"}, "spec": spec})
    assert worked_out([bfb("old")], [live]).notes == ["BFB ns/old stays as it is"]


def test_manifests_come_from_files_lists_and_several_documents(tmp_path: Path) -> None:
    one = {"apiVersion": API, "kind": "BFB", "metadata": {"name": "a"}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump_all([one, {"kind": "List", "items": [one, one]}, None]))
    documents = plan.manifests([str(tmp_path / "x.yaml")])
    objects, _ = plan.parse(documents, "here")
    assert [each.key for each in objects] == [("here", "a")] * 3


def test_what_looks_like_a_date_is_text_as_for_kubectl(tmp_path: Path) -> None:
    selector = "{feature.node.kubernetes.io/dpu-0-pci-address: 0000-04-00, day: 2024-05-06}"
    (tmp_path / "x.yaml").write_text(f"{{kind: DPUSet, spec: {{dpuSelector: {selector}}}}}")
    [document] = plan.manifests([str(tmp_path / "x.yaml")])
    assert list(document["spec"]["dpuSelector"].values()) == ["0000-04-00", "2024-05-06"]


@pytest.mark.parametrize(
    "text",
    [
        "- a list",
        "a: [",
        "just words",
        "{}",
        "{kind: List, items: [null]}",
        "{kind: List, items: [{kind: List, items: [word]}]}",
        "{kind: BFB, metadata: foo}",
        "{kind: List, items: [{kind: Secret, metadata: [foo]}]}",
    ],
)
def test_what_is_no_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        plan.manifests([str(tmp_path / "x.yaml")])


def test_mistyped_fields_are_told_of_and_other_kinds_left_out() -> None:
    spec = {"dpuTemplate": {"spec": {"bfbb": {"name": "x"}}}, "nodeSelector": {"matchLabels": {"any": "thing"}}}
    documents = [
        {
            "apiVersion": API,
            "kind": "DPUSet",
            "metadata": {"name": "s", "labels": {"a": "b"}, "managedFields": []},
            "spec": spec,
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}},
    ]
    objects, notes = plan.parse(documents, "ns")
    assert len(objects) == 1
    assert notes[0] == "DPUSet 's' has a field spec.dpuTemplate.spec.bfbb that the API does not know"
    assert notes[1].startswith("Secret 'x' of v1 is not looked at")


def test_a_field_of_the_wrong_type_is_an_error_that_names_it() -> None:
    document = {"apiVersion": API, "kind": "BFB", "metadata": {"name": "a"}, "spec": {"url": 7}}
    with pytest.raises(ConfigError, match=r"BFB 'a': spec\.url"):
        plan.parse([document], "ns")


def test_of_many_batches_the_first_and_the_last_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    hosts = [f"h{number:03}" for number in range(100)]
    result = plan.work_out(
        [dpuset(bfb="new")], [dpuset(), bfb("new"), flavor("flavor")], [node(h) for h in hosts], [dpu(h) for h in hosts]
    )
    plan._print(result, wide=False, coloured=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "DPUSet ns/set: RollingUpdate, at most 1 of 100 DPUs unavailable"
    assert [line.split("   ")[0].strip() for line in lines[2:9]] == [
        *(f"batch {n}" for n in range(1, 6)),
        "...",
        "batch 100",
    ]
    assert lines[9] == "DPUs: 100 to provision anew, in 100 batches."
    plan._print(result, wide=True, coloured=True)
    assert len(capsys.readouterr().out.splitlines()) == 104
