"""What the webhooks of provisioning fill in and refuse, as the API server sees it."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import orjson
import pytest

from dpf.provisioning.admission.register import webhooks
from dpf.provisioning.bfcfg import shell
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object
from dpf.runtime.webhook import Webhook, respond
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.names import ANNOTATION_CHECKSUM, ANNOTATION_HOST_POWER_CYCLE_REQUIRED

URL = "https://example.com/bf.bfb"


class Admission:
    """The webhooks, and a cache that a test fills."""

    def __init__(self) -> None:
        self.cluster = Cluster("host", Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test"))
        self.webhooks: dict[str, Webhook[Any]] = {webhook.name: webhook for webhook in webhooks(self.cluster)}

    def fill(self, *bodies: dict[str, Any]) -> None:
        for kind in (BFB, DPU, DPUSet):
            raws = [orjson.dumps(body) for body in bodies if body["kind"] == kind.RESOURCE.kind]
            self.cluster.cache[kind].replace(raws, 1)

    def ask(self, name: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
        return asyncio.run(respond(self.webhooks[name], old, new))

    def patch(self, name: str, new: dict[str, Any], old: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a mutating webhook puts where."""
        answer = self.ask(name, old, new)
        assert answer["allowed"]
        found = json.loads(base64.b64decode(answer.get("patch", "W10=")))
        assert all(each["op"] == "add" for each in found)
        return {each["path"]: each["value"] for each in found}


@pytest.fixture
def admission() -> Admission:
    admission = Admission()
    admission.fill()
    return admission


def body(kind: type[Object], name: str, namespace: str = "ns", **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, "uid": f"{namespace}/{name}", "resourceVersion": "1"}
    meta |= more.pop("metadata", {})
    return {"apiVersion": kind.RESOURCE.api_version, "kind": kind.RESOURCE.kind, "metadata": meta, **more}


def bfb(name: str = "image", namespace: str = "ns", **spec: Any) -> dict[str, Any]:
    return body(BFB, name, namespace, spec={"url": URL} | spec)


def dpuset(*, name: str = "set", namespace: str = "ns", annotation: str | None = None, **spec: Any) -> dict[str, Any]:
    annotations = {} if annotation is None else {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: annotation}
    return body(DPUSet, name, namespace, spec={"dpuTemplate": {"annotations": annotations, "spec": spec}})


def dpu(*, name: str = "d1", namespace: str = "ns", annotation: str | None = None, **spec: Any) -> dict[str, Any]:
    annotations = {} if annotation is None else {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: annotation}
    return body(DPU, name, namespace, metadata={"annotations": annotations}, spec={"nodeName": "n", "bfb": ""} | spec)


def test_names_paths_and_verbs_are_upstreams(admission: Admission) -> None:
    prefix = "provisioning-dpu-nvidia-com-v1alpha1"
    assert {name: (hook.path, hook.operations) for name, hook in admission.webhooks.items()} == {
        "mbfb.kb.io": (f"/mutate-{prefix}-bfb", ("CREATE", "UPDATE")),
        "vbfb.kb.io": (f"/validate-{prefix}-bfb", ("CREATE", "UPDATE", "DELETE")),
        "vdpu.kb.io": (f"/validate-{prefix}-dpu", ("CREATE", "UPDATE")),
        "vdpuflavor.kb.io": (f"/validate-{prefix}-dpuflavor", ("CREATE", "UPDATE", "DELETE")),
        "mdpuset.kb.io": (f"/mutate-{prefix}-dpuset", ("CREATE", "UPDATE")),
        "vdpuset.kb.io": (f"/validate-{prefix}-dpuset", ("CREATE", "UPDATE")),
    }


def test_a_bfb_gets_its_file_name(admission: Admission) -> None:
    assert admission.patch("mbfb.kb.io", bfb()) == {"/spec/fileName": "ns-image.bfb"}
    assert admission.patch("mbfb.kb.io", bfb(fileName="mine.bfb")) == {}
    assert admission.patch("mbfb.kb.io", body(BFB, "bare")) == {"/spec": {"fileName": "ns-bare.bfb"}}


def test_a_bfb_that_is_sent_again_without_its_file_name_keeps_it(admission: Admission) -> None:
    stored = bfb(fileName="ns-image.bfb")
    admission.fill(stored)
    assert admission.patch("mbfb.kb.io", bfb(), stored) == {"/spec/fileName": "ns-image.bfb"}


def test_a_bfb_that_was_stored_without_a_file_name_can_still_be_updated(admission: Admission) -> None:
    admission.fill(bfb())
    assert admission.patch("mbfb.kb.io", bfb(), bfb()) == {}


@pytest.mark.parametrize(
    ("stored", "new", "other"),
    [
        (bfb("one", fileName="x.bfb"), bfb("two", fileName="x.bfb"), "ns/one"),
        (bfb("one", "other", fileName="x.bfb"), bfb("two", fileName="x.bfb"), "other/one"),
        (bfb("c", "a-b"), bfb("b-c", "a"), "a-b/c"),
        (bfb("one", fileName="ns-two.bfb"), bfb("two"), "ns/one"),
    ],
)
def test_two_bfbs_do_not_share_a_file(
    admission: Admission, stored: dict[str, Any], new: dict[str, Any], other: str
) -> None:
    admission.fill(stored)
    answer = admission.ask("vbfb.kb.io", None, new)
    assert answer["status"]["code"] == 422
    assert answer["status"]["details"]["causes"][0]["field"] == "spec.fileName"
    assert f"the file of BFB {other} already" in answer["status"]["message"]
    assert admission.ask("vbfb.kb.io", None, bfb("third"))["allowed"]


def test_a_bfb_whose_name_is_too_long_for_a_file_must_name_one(admission: Admission) -> None:
    answer = admission.ask("vbfb.kb.io", None, bfb("b" * 250))
    assert answer["status"]["code"] == 422
    assert answer["status"]["details"]["causes"][0]["field"] == "spec.fileName"
    assert "may have 255 characters, and <namespace>-<name>.bfb has 257; name a file" in answer["status"]["message"]
    assert admission.ask("vbfb.kb.io", None, bfb("b" * 248))["allowed"]
    assert admission.ask("vbfb.kb.io", None, bfb("b" * 250, fileName="mine.bfb"))["allowed"]
    assert admission.ask("vbfb.kb.io", bfb("b" * 250), bfb("b" * 250))["allowed"]
    assert admission.ask("vbfb.kb.io", bfb("b" * 250), None)["allowed"]


ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def summed(annotation: str | None, checksum: str = "", ready: str = "") -> dict[str, Any]:
    annotations = {} if annotation is None else {ANNOTATION_CHECKSUM: annotation}
    status: dict[str, Any] = {"status": {"phase": "Ready", "checksum": ready}} if ready else {}
    named = {"checksum": checksum} if checksum else {}
    return body(BFB, "image", metadata={"annotations": annotations}, spec={"url": URL} | named, **status)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (None, summed("md5:1"), "64 hexadecimal digits"),
        (None, summed(ONE.upper()), "64 hexadecimal digits"),
        (None, summed(""), "64 hexadecimal digits"),
        (None, summed(ONE, TWO), "another checksum than spec.checksum"),
        (summed(None, TWO), summed(ONE, TWO), "another checksum than spec.checksum"),
        (summed(None, ready=TWO), summed(ONE, ready=TWO), "another image is another BFB"),
    ],
)
def test_an_annotated_checksum_that_cannot_be_met_is_refused(
    admission: Admission, old: dict[str, Any] | None, new: dict[str, Any], word: str
) -> None:
    answer = admission.ask("vbfb.kb.io", old, new)
    assert answer["status"]["code"] == 422
    assert answer["status"]["details"]["causes"][0]["field"] == f"metadata.annotations[{ANNOTATION_CHECKSUM}]"
    assert word in answer["status"]["message"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, summed(ONE)),
        (None, summed(ONE, ONE)),
        (summed(None, ready=ONE), summed(ONE, ready=ONE)),
        (summed(ONE), summed(None)),
        (summed("md5:1", TWO), summed("md5:1", TWO)),
    ],
)
def test_an_annotated_checksum_that_can_be_met_or_was_there_before_is_let_pass(
    admission: Admission, old: dict[str, Any] | None, new: dict[str, Any]
) -> None:
    assert admission.ask("vbfb.kb.io", old, new)["allowed"]


USED: dict[str, Any] = {"bfb": {"name": "image"}, "dpuFlavor": "flavor"}


@pytest.mark.parametrize(
    ("hook", "kind", "name"), [("vbfb.kb.io", BFB, "image"), ("vdpuflavor.kb.io", DPUFlavor, "flavor")]
)
@pytest.mark.parametrize(
    ("stored", "users"),
    [
        ([], ""),
        ([dpuset(**USED)], "DPUSet set;"),
        ([dpu(bfb="image", dpuFlavor="flavor")], "DPU d1;"),
        ([dpuset(**USED), dpu(bfb="image", dpuFlavor="flavor")], "DPUSet set and DPU d1;"),
        (
            [dpu(name=f"d{i}", bfb="image", dpuFlavor="flavor") for i in range(7)],
            "DPUs d0, d1, d2, d3, d4 and 2 more;",
        ),
        ([dpuset(namespace="other", **USED), dpu(namespace="other", bfb="image", dpuFlavor="flavor")], ""),
        ([dpuset(bfb={"name": "x"}, dpuFlavor="x"), dpu(name="image", bfb="x", dpuFlavor="x")], ""),
        ([body(DPUSet, "empty"), body(DPU, "empty")], ""),
    ],
)
def test_what_is_used_in_its_namespace_is_not_deleted(
    admission: Admission, hook: str, kind: type[Object], name: str, stored: list[dict[str, Any]], users: str
) -> None:
    admission.fill(*stored)
    answer = admission.ask(hook, body(kind, name), None)
    assert answer["allowed"] is not bool(users)
    if users:
        assert answer["status"]["code"] == 403
        assert f"{kind.RESOURCE.kind} ns/{name} is in use by {users} delete those first" in answer["status"]["message"]


@pytest.mark.parametrize(
    ("hook", "kind", "name"), [("vbfb.kb.io", BFB, "image"), ("vdpuflavor.kb.io", DPUFlavor, "flavor")]
)
def test_what_cannot_be_read_is_deleted_if_nobody_uses_it(
    admission: Admission, hook: str, kind: type[Object], name: str
) -> None:
    stored = body(kind, name, spec="lost")
    assert admission.ask(hook, stored, None)["allowed"]
    admission.fill(dpu(bfb="image", dpuFlavor="flavor"))
    assert admission.ask(hook, stored, None)["status"]["code"] == 403


def test_what_is_being_deleted_may_be_deleted_again(admission: Admission) -> None:
    admission.fill(dpu(bfb="image"))
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert admission.ask("vbfb.kb.io", body(BFB, "image", metadata=gone), None)["allowed"]


def test_nothing_is_judged_by_a_cache_that_is_not_filled() -> None:
    admission = Admission()
    for old, new in ((bfb(), None), (None, bfb())):
        answer = admission.ask("vbfb.kb.io", old, new)
        assert answer["status"]["code"] == 503
        assert "try again" in answer["status"]["message"]


@pytest.mark.parametrize(
    ("spec", "filled"),
    [
        ({}, {"/spec/strategy": {"type": "Recreate"}}),
        ({"strategy": {"type": "Recreate"}}, {}),
        ({"strategy": {}}, {}),
        ({"strategy": {"type": "RollingUpdate"}}, {"/spec/strategy/rollingUpdate": {"maxUnavailable": 1}}),
        (
            {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}},
            {"/spec/strategy/rollingUpdate/maxUnavailable": 1},
        ),
        ({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}}, {}),
        (
            {"strategy": {"type": "Recreate"}, "dpuTemplate": {"spec": {"dpuFlavor": "f"}}},
            {"/spec/dpuTemplate/spec/nodeEffect": {"drain": {"automaticNodeReboot": True}}},
        ),
        ({"strategy": {"type": "Recreate"}, "dpuTemplate": {"spec": {"nodeEffect": {"noEffect": True}}}}, {}),
        ({"strategy": {"type": "Recreate"}, "dpuTemplate": {"annotations": {"a": "b"}}}, {}),
    ],
)
def test_a_dpuset_gets_what_it_leaves_out(admission: Admission, spec: dict[str, Any], filled: dict[str, Any]) -> None:
    assert admission.patch("mdpuset.kb.io", body(DPUSet, "set", spec=spec)) == filled


def test_a_dpuset_without_a_spec_gets_a_strategy(admission: Admission) -> None:
    assert admission.patch("mdpuset.kb.io", body(DPUSet, "set")) == {"/spec": {"strategy": {"type": "Recreate"}}}


@pytest.mark.parametrize(
    ("hook", "make", "kind", "path"),
    [
        ("vdpu.kb.io", dpu, "DPU", "metadata.annotations"),
        ("vdpuset.kb.io", dpuset, "DPUSet", "spec.dpuTemplate.annotations"),
    ],
)
@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ((), None, True),
        ((), "true", True),
        ((), "F", True),
        ((), "yes", False),
        ((), "", False),
        ((None,), "yes", False),
        (("true",), "yes", False),
        (("yes",), "yes", True),
        (("yes",), "no", False),
        (("yes",), None, True),
    ],
)
def test_the_annotation_for_a_power_cycle_is_a_boolean(
    admission: Admission, hook: str, make: Any, kind: str, path: str, old: tuple[str | None], new: str, allowed: bool
) -> None:
    before = make(annotation=old[0]) if old else None
    answer = admission.ask(hook, before, make(annotation=new))
    assert answer["allowed"] is allowed
    if not allowed:
        status = answer["status"]
        assert status["code"] == 422
        assert status["details"]["causes"][0]["field"] == f"{path}[{ANNOTATION_HOST_POWER_CYCLE_REQUIRED}]"
        assert status["message"].startswith(f"{kind}.provisioning.dpu.nvidia.com ")


@pytest.mark.parametrize(
    ("hook", "make", "path"),
    [
        ("vdpu.kb.io", dpu, "spec.cluster.nodeLabels"),
        ("vdpuset.kb.io", dpuset, "spec.dpuTemplate.spec.cluster.nodeLabels"),
    ],
)
@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ({}, {"rack": "1", "a.example.com/B_c": "", "p" * 253 + "/" + "n" * 63: "v" * 63}, []),
        ({}, {"": "x"}, [""]),
        ({}, {"ü☃": "x", "fine": "ü"}, ["ü☃", "fine"]),
        ({}, {"a/b/c": "", "/b": "", "a/": "", "A/b": "", "-a": "", "a\n": ""}, ["a/b/c", "/b", "a/", "A/b", "-a"]),
        ({}, {"n" * 64: "", "p" * 254 + "/n": ""}, ["n" * 64, "p" * 63 + "..."]),
        ({}, {"a": "v" * 64, "b": "-v", "c": "v.", "d": "a b", "e": "v\n"}, ["a", "b", "c", "d", "e"]),
        ({"": "x"}, {"": "x"}, []),
        ({"": "x"}, {"": "x", "a": "-"}, ["a"]),
        ({"": "x"}, {"": "y"}, [""]),
        ({"": "x"}, {}, []),
    ],
)
def test_labels_that_no_node_can_have_are_refused(
    admission: Admission, hook: str, make: Any, path: str, old: dict[str, str], new: dict[str, str], wrong: list[str]
) -> None:
    for before in [make(cluster={"nodeLabels": old})] + ([] if old else [None, make()]):
        answer = admission.ask(hook, before, make(cluster={"nodeLabels": new}))
        assert answer["allowed"] is not bool(wrong)
        if wrong:
            assert answer["status"]["code"] == 422
            causes = answer["status"]["details"]["causes"]
            assert [cause["field"] for cause in causes] == [f"{path}[{key}]" for key in wrong]
            assert all("with a letter or digit at both ends" in cause["message"] for cause in causes)


def flavor(**spec: Any) -> dict[str, Any]:
    return body(DPUFlavor, "flavor", spec=spec)


TOO_LONG: dict[str, Any] = {"configFiles": [{"path": "/a", "raw": "x" * 140_000}]}


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        (TOO_LONG, "spec.configFiles", "a card takes 131072"),
        ({"ovs": {"rawConfigScript": "true\n" * 30_000}}, "spec.ovs.rawConfigScript", "a card takes 131072"),
        ({"sysctl": {"parameters": ["a=1"] * 20_000}}, "spec.sysctl.parameters", "a card takes 131072"),
        ({"nvconfig": [{"parameters": ["NUM_OF_VFS=10000000"]}]}, "spec.nvconfig[0].parameters", "NUM_OF_VFS"),
        (
            {"bfcfgParameters": ["X=1", "A='x"]},
            "spec.bfcfgParameters[1]",
            "unexpected EOF while looking for matching `''",
        ),
        ({"configFiles": [{"permissions": "rw"}]}, "spec.configFiles[0].permissions", "a mode in octal digits"),
        (
            {"containerdConfig": {"registryEndpoint": "https://a\n"}},
            "spec.containerdConfig.registryEndpoint",
            "on one line",
        ),
    ],
)
def test_a_flavor_that_no_card_could_be_given_is_refused_with_field_and_limit(
    admission: Admission, spec: dict[str, Any], field: str, words: str
) -> None:
    for old in (None, body(DPUFlavor, "flavor")):
        answer = admission.ask("vdpuflavor.kb.io", old, flavor(**spec))
        assert answer["status"]["code"] == 422
        assert answer["status"]["details"]["causes"][0]["field"] == field
        kind = 'DPUFlavor.provisioning.dpu.nvidia.com "flavor" is invalid: '
        assert answer["status"]["message"].startswith(f"{kind}{field}: ")
        assert words in answer["status"]["message"]


@pytest.mark.parametrize("spec", [TOO_LONG, {"bfcfgParameters": ["A='x"], "configFiles": [{"permissions": "rw"}]}])
def test_a_flavor_that_was_stored_unchecked_can_still_be_labelled_and_deleted(
    admission: Admission, spec: dict[str, Any]
) -> None:
    stored = flavor(**spec)
    assert admission.ask("vdpuflavor.kb.io", stored, stored)["allowed"]
    assert admission.ask("vdpuflavor.kb.io", stored, None)["allowed"]


def test_a_flavor_that_the_shell_gave_no_answer_about_may_be_sent_again(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = flavor(bfcfgParameters=["SENT_TWICE='yes'"])
    with monkeypatch.context() as unlucky:
        unlucky.setattr(shell, "COMMAND", ("sh", "-c", "kill -9 $$"))
        answer = admission.ask("vdpuflavor.kb.io", None, asked)
    assert (answer["allowed"], answer["status"]["code"]) == (False, 503)
    assert "ended by signal 9" in answer["status"]["message"]
    assert admission.ask("vdpuflavor.kb.io", None, asked)["allowed"]


@pytest.mark.parametrize("kind", [DPU, DPUSet, BFB, DPUFlavor])
def test_objects_without_a_spec_do_no_harm(admission: Admission, kind: type[Object]) -> None:
    bare = body(kind, "bare")
    for hook in (each for each in admission.webhooks.values() if each.kind is kind):
        for old, new in ((None, bare), (bare, bare), (bare, None)):
            assert asyncio.run(respond(hook, old, new))["allowed"]
