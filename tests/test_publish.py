"""What is uploaded, what is not, and errors of the Hub and the network: over real HTTP, on loopback."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_server import Fault, HubServer

from model_cards.make import CARDS
from modeling_sim import SimEmbedder
from modeling_sim.analysis import LinearTransform
from modeling_sim.commands import axes, finetune, pretrain, publish, train_decoder
from modeling_sim.data.licenses import strictest
from modeling_sim.evaluation.axes import AXES_NAME, save_axes
from modeling_sim.evaluation.results import Results
from modeling_sim.hub import staging as publish_module
from modeling_sim.hub import upload as training_hub
from modeling_sim.loading import load_encoder
from modeling_sim.provenance import weights_fingerprint
from modeling_sim.trainer.checkpoints import read_checkpoint

ROOT = Path(__file__).parent.parent
MODEL_FILES = {
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "configuration_sim.py",
    "modeling_sim.py",
    "layers_sim.py",
    "objectives_sim.py",
    "feature_extraction_sim.py",
}
RUN_FILES = {"README.md", "results.json", "training_settings.json", "log.jsonl", "curves.png"}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run, started from a model in another folder, with a checkpoint, all by absolute paths."""
    root = tmp_path_factory.mktemp("secret-place")
    flags = shlex.split(
        "--model_settings '{hidden_size: 16, context_size: 8, loss_window: 64}' --crop_samples 10240 "
        "--corpus_settings '{num_train: 8, num_test: 4, num_speakers: 2}' --batch_size 4 --eval_batch_size 4 "
        "--warmup_steps 0 --save_steps 1 --max_steps 2"
    )
    pretrain.main([*flags, "--output_dir", str(root / "first"), "--max_steps", "1"])
    pretrain.main([*flags[2:], "--init_from", str(root / "first"), "--output_dir", str(root / "tiny")])
    (root / "tiny" / "optimizer.bin").write_bytes(b"not for others")
    (root / "tiny" / "audio.wav").write_bytes(b"not for others")
    return root / "tiny"


def titles(hub, name="org/tiny"):
    """Titles of all commits after the first, which makes a repository."""
    return [commit.title for commit in hub.repo(name).commits.values()][1:]


def measures(folder):
    """Results of a probe and of ABX for a run, with the numbers of the committed ones."""
    for kind, source in (("probe", "librispeech_small_phone_probe"), ("abx", "librispeech_small_abx")):
        (folder / kind).mkdir(parents=True)
        text = (CARDS / "results" / f"{source}.json").read_text().replace("librispeech-small", "tiny")
        read = {**json.loads(text), "fingerprints": {}}  # the committed ones are another model's
        (folder / kind / f"{kind}.json").write_text(json.dumps(read))
        shutil.copy(CARDS / "images" / "librispeech_small_phone_probe.png", folder / kind / f"{kind}.png")
    return [str(folder / "probe"), str(folder / "abx")]


def test_a_run_is_published_completely_in_one_commit_and_nothing_else_is(hub, run_folder, tmp_path):
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--measures", *measures(tmp_path)])
    files = hub.files("org/tiny")
    measured = {"probe_phones_frame.json", "probe_phones_frame.png", "abx.json", "abx.png"}
    assert set(files) == MODEL_FILES | RUN_FILES | measured | {".gitattributes"}
    assert titles(hub) == ["Upload a pretrained model"]
    assert files["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    card = files["README.md"].decode()
    for expected in ("### Probe: phones", "### ABX: phones", "](probe_phones_frame.png)", 'from_pretrained("org/tiny"'):
        assert expected in card


def test_single_dimensions_are_published_without_what_only_a_report_needs(run_folder, dimensions, tmp_path):
    """Also from a folder that was published."""
    given = tmp_path / "analysis"
    staged = [tmp_path / "once", tmp_path / "again"]
    for folder in (given, *staged):
        folder.mkdir()
    dimensions("tiny", 0.1).write(given / "analysis.json")
    publish_module.stage_run(run_folder, staged[0], repo_id="org/tiny", measures=[given])
    publish_module.stage_run(run_folder, staged[1], repo_id="org/tiny", measures=[staged[0]])
    read = Results.read(staged[0] / "analysis.json")
    assert read.rows == dimensions("tiny", 0.1).rows
    assert read.media == read.comparisons == []
    assert "0.66 / 0.61" in (staged[0] / "README.md").read_text()
    for name in ("analysis.json", "README.md"):
        assert (staged[0] / name).read_bytes() == (staged[1] / name).read_bytes()


def test_measures_of_another_model_are_refused_though_its_folder_has_the_same_name(hub, run_folder, tmp_path):
    fingerprint = weights_fingerprint(load_encoder(str(run_folder)))
    paths = [Path(folder) / f"{Path(folder).name}.json" for folder in measures(tmp_path)]
    for path, name in zip(paths, ("moved/tiny", "renamed"), strict=True):
        text = path.read_text().replace('"tiny"', f'"{name}"')
        path.write_text(json.dumps({**json.loads(text), "fingerprints": {name: fingerprint}}))
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--measures", *map(str, paths)])
    assert "### ABX: phones" in hub.files("org/tiny")["README.md"].decode()
    hub.requests.clear()
    for path in paths:
        read = json.loads(path.read_text())
        text = json.dumps({**read, "fingerprints": {"tiny": "another"}})
        path.write_text(text.replace(f'"{next(iter(read["fingerprints"]))}"', '"tiny"'))
        with pytest.raises(SystemExit, match=f"{re.escape(str(path))} .*tiny.*weights"):
            publish.main([str(run_folder), "--repo_id", "org/tiny", "--measures", str(path)])
    path.write_text(json.dumps({**read, "fingerprints": {}}).replace('"renamed"', '"other"'))  # of an earlier version
    with pytest.raises(SystemExit, match=f"{re.escape(str(path))} .*other.*tiny.*name"):
        publish.main([str(run_folder), "--repo_id", "org/tiny", "--measures", str(path)])
    assert hub.requests == []


def test_a_license_may_be_stated_unless_it_is_looser_than_the_datas(copy, capsys):
    publish.main([str(copy), "--repo_id", "org/tiny", "--license", "cc-by-4.0", "--dry_run"])
    assert "license: cc-by-4.0" in capsys.readouterr().out  # stricter than the generated syllables need
    with pytest.raises(SystemExit, match=r"'mit' .*'apache-2\.0'"):
        publish.main([str(copy), "--repo_id", "org/tiny", "--license", "mit", "--dry_run"])
    with pytest.raises(SystemExit, match=r"`license`.*`card`"):
        publish.main([str(copy), "--repo_id", "org/tiny", "--license", "mit", "--card", "card.md"])


def test_a_run_records_what_only_its_machine_can_tell(run_folder):
    results = json.loads((run_folder / "results.json").read_text())
    assert results["base_model"] is None  # a folder
    assert results["dataset_id"] is None
    assert results["base_license"] == "apache-2.0"
    assert results["train_hours"] > results["test_hours"] > 0
    speakers = results["held_out_speakers"]
    assert speakers["speakers"] >= speakers["heard_in_training"] > 0  # synthetic speakers are in both splits


def test_no_uploaded_file_tells_where_it_was_trained(hub, run_folder, tmp_path):
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--with_training_state", "--measures", *measures(tmp_path)])
    place = run_folder.parent
    assert str(place) in (run_folder / "training_settings.json").read_text()
    files = hub.files("org/tiny")
    assert "checkpoint-2/trainer.pt" in files
    for path, content in files.items():
        for secret in (str(place), place.name, str(tmp_path), str(Path.home()) + "/", str(ROOT)):
            assert secret.encode() not in content, (path, secret)
    settings = json.loads(files["training_settings.json"])["settings"]
    assert (settings["output_dir"], settings["init_from"]) == ("tiny", "first")


def test_an_uploaded_training_state_is_a_complete_checkpoint(hub, run_folder, tmp_path):
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--with_training_state"])
    for path, content in hub.files("org/tiny").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert read_checkpoint(tmp_path / "checkpoint-2").numbers["step"] == 2


def test_a_dry_run_shows_files_and_card_and_only_looks(hub, run_folder, capsys):
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--dry_run"])
    shown = capsys.readouterr().out
    assert {request.split()[0] for request in hub.requests} == {"GET"}
    assert hub.repos == {}
    listed = {
        name: int(size.replace(",", "")) for size, name in re.findall(r"^ +([\d,]+)  (\S+)$", shown, re.MULTILINE)
    }
    assert set(listed) == MODEL_FILES | RUN_FILES
    assert listed["model.safetensors"] == (run_folder / "model.safetensors").stat().st_size
    assert "org/tiny" in shown
    assert "# tiny\n" in shown


def test_a_dry_run_works_without_a_network(run_folder, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--dry_run"])
    shown = capsys.readouterr().out
    assert "http://127.0.0.1:9" in shown
    assert "# tiny\n" in shown


def test_what_an_earlier_upload_left_is_named_and_goes_and_what_others_put_there_is_named_and_stays(
    hub, run_folder, tmp_path, capsys
):
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--with_training_state", "--measures", *measures(tmp_path)])
    for name in ("pytorch_model.bin", "checkpoint-2/notes.txt"):
        huggingface_hub.HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo=name, repo_id="org/tiny")
    before = len(titles(hub))
    capsys.readouterr()
    for flags in (["--dry_run"], []):
        publish.main([str(run_folder), "--repo_id", "org/tiny", *flags])
        shown = capsys.readouterr().out
        deleted = re.search(r"^deleted \(.*\): (.*)$", shown, flags=re.MULTILINE)[1].split(", ")
        assert {"checkpoint-2/trainer.pt", "abx.json", "probe_phones_frame.png"} <= set(deleted)
        assert "checkpoint-2/notes.txt, pytorch_model.bin\n" in shown
    assert set(hub.files("org/tiny")) == MODEL_FILES | RUN_FILES | {
        ".gitattributes",
        "pytorch_model.bin",
        "checkpoint-2/notes.txt",
    }
    assert len(titles(hub)) == before + 1


def test_a_second_upload_of_the_same_run_makes_no_commit(hub, run_folder):
    for _ in range(2):
        publish.main([str(run_folder), "--repo_id", "org/tiny"])
    assert len(titles(hub)) == 1


# ---------------------------------------------------------------------- repositories and rights


def test_a_repository_that_holds_something_else_needs_a_yes(hub, run_folder):
    api = huggingface_hub.HfApi()
    api.create_repo("org/tiny")
    api.upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id="org/tiny")
    with pytest.raises(SystemExit, match=r"org/tiny .*config\.json.*--yes"):
        publish.main([str(run_folder), "--repo_id", "org/tiny"])
    assert set(hub.files("org/tiny")) == {".gitattributes", "config.json"}
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--yes"])
    assert json.loads(hub.files("org/tiny")["config.json"])["model_type"] == "sim"


def test_a_card_has_the_name_of_the_repository_and_measures_that_of_the_folder(hub, run_folder, tmp_path):
    publish.main([str(run_folder), "--repo_id", "org/readable-speech", "--measures", *measures(tmp_path)])
    card = hub.files("org/readable-speech")["README.md"].decode()
    assert "\n# readable-speech\n" in card
    assert "- name: readable-speech\n" in card
    assert "name: accuracy of a linear probe of phones, context" in card


def test_a_repository_with_a_card_alone_holds_nothing_to_lose(hub, run_folder):
    api = huggingface_hub.HfApi()
    api.create_repo("org/tiny")
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n", path_in_repo="README.md", repo_id="org/tiny")
    publish.main([str(run_folder), "--repo_id", "org/tiny"])
    assert "model.safetensors" in hub.files("org/tiny")


def test_a_private_repository_is_private_and_a_public_one_is_not_taken_for_it(hub, run_folder):
    publish.main([str(run_folder), "--repo_id", "org/closed", "--private"])
    assert hub.repo("org/closed").private
    publish.main([str(run_folder), "--repo_id", "org/open"])
    assert not hub.repo("org/open").private
    with pytest.raises(SystemExit, match=r"org/open .*--private"):
        publish.main([str(run_folder), "--repo_id", "org/open", "--private"])


def test_a_branch_is_made_and_main_is_left_alone(hub, run_folder):
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--revision", "try/1"])
    assert set(hub.files("org/tiny", "main")) == {".gitattributes"}
    assert set(hub.files("org/tiny", "try/1")) >= MODEL_FILES


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, "org/tiny", "HF_TOKEN"),
        ("hf_wrong", "org/tiny", "http://127.*HF_TOKEN"),
        ("hf_reader", "org/tiny", "org/tiny"),
        ("hf_owner", "elsewhere/tiny", "elsewhere/tiny"),
    ],
)
def test_a_refusal_is_one_line_and_publishes_nothing(token, repo_id, message, hub, run_folder, monkeypatch):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SystemExit, match=message) as error:
        publish.main([str(run_folder), "--repo_id", repo_id])
    assert str(error.value).startswith("modeling-sim publish: ")
    assert "\n" not in str(error.value)
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repo_id", "tiny"], "`repo_id` is 'tiny'"),
        (["--repo_id", "org/tiny/x"], "`repo_id` is 'org/tiny/x'"),
        (["--repo_id", "org/ti ny"], "`repo_id` is 'org/ti ny'"),
        (["--repo_id", "org/tiny", "--revision", ""], "`revision`"),
    ],
)
def test_a_repository_or_branch_that_cannot_be_is_refused_at_once(flags, message, hub, run_folder):
    with pytest.raises(SystemExit, match=message):
        publish.main([str(run_folder), *flags])
    assert hub.requests == []


# ---------------------------------------------------------------------- a bad line


@pytest.mark.parametrize(
    "pattern", ["POST .*/commit/", "POST .*batch", "GET .*whoami", "POST .*create", "GET .*models/org/tiny"]
)
def test_a_hub_that_answers_500_and_then_works_gets_everything_once(pattern, hub, run_folder):
    hub.faults.append(Fault("error", pattern, times=2))
    publish.main([str(run_folder), "--repo_id", "org/tiny"])
    assert hub.faults[0].times == 0
    assert set(hub.files("org/tiny")) >= MODEL_FILES | RUN_FILES
    assert len(titles(hub)) == 1


@pytest.mark.parametrize("pattern", ["POST .*/commit/", "GET .*whoami"])
def test_a_connection_that_drops_is_tried_again(pattern, hub, run_folder):
    hub.faults.append(Fault("drop", pattern))
    publish.main([str(run_folder), "--repo_id", "org/tiny"])
    assert len(titles(hub)) == 1


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, run_folder):
    hub.faults.append(Fault("lost", "POST .*/commit/"))
    publish.main([str(run_folder), "--repo_id", "org/tiny"])
    assert hub.faults[0].times == 0
    assert len(titles(hub)) == 1


def test_a_network_that_goes_half_way_leaves_nothing_half_published(hub, run_folder):
    publish.main([str(run_folder), "--repo_id", "org/tiny"])
    before = hub.files("org/tiny")
    hub.faults.append(Fault("drop", "POST .*/commit/", times=99))
    with pytest.raises(SystemExit, match=r"http://127.0.0.1:\d+ .*org/tiny") as error:
        publish.main([str(run_folder), "--repo_id", "org/tiny", "--with_training_state"])
    assert "\n" not in str(error.value)
    assert hub.files("org/tiny") == before


def test_an_upload_that_was_overtaken_does_not_undo_the_other(hub, tmp_path):
    api = huggingface_hub.HfApi()
    api.create_repo("org/tiny")

    class OvertakenApi(huggingface_hub.HfApi):
        def create_commit(self, *arguments, **more):
            api.upload_file(path_or_fileobj=b"new", path_in_repo="model.txt", repo_id="org/tiny", commit_message="new")
            return super().create_commit(*arguments, **more)

    (tmp_path / "model.txt").write_text("old")
    with pytest.raises(training_hub.HubError, match="org/tiny"):
        training_hub.upload(OvertakenApi(), "org/tiny", tmp_path, message="old")
    assert titles(hub) == ["new"]
    assert hub.files("org/tiny")["model.txt"] == b"new"


def test_no_hub_at_all_is_one_line(run_folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(training_hub, "RETRY_SECONDS", ())
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    with pytest.raises(SystemExit, match=r"http://127.0.0.1:9 "):
        publish.main([str(run_folder), "--repo_id", "org/tiny"])


# ---------------------------------------------------------------------- broken checkpoints and cards


@pytest.fixture
def copy(run_folder, tmp_path):
    return Path(shutil.copytree(run_folder, tmp_path / "tiny"))


def damage_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def damage_auto_map(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]["AutoModel"]
    (folder / "config.json").write_text(json.dumps(config))


def damage_schema(folder):
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, "schema": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, r"model\.safetensors"),
        (damage_auto_map, "AutoModel"),
        (damage_schema, r"results\.json .*`schema` 99"),
        (lambda folder: (folder / "modeling_sim.py").unlink(), r"modeling_sim\.py"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"\*\.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json"),
        (lambda folder: (folder / "results.json").unlink(), "--card"),
        (lambda folder: (folder / "results.json").write_text("{"), r"results\.json .*JSON"),
        (lambda folder: (folder / "results.json").write_text('{"modules": []}'), "'corpus_license'"),
    ],
)
def test_a_broken_folder_is_refused_before_anything_is_sent(damage, message, hub, copy):
    damage(copy)
    with pytest.raises(SystemExit, match=message):
        publish.main([str(copy), "--repo_id", "org/tiny"])
    assert hub.requests == []


def set_auto_map(file, reference):
    def damage(folder):
        read = json.loads((folder / file).read_text())
        read["auto_map"]["AutoModelForCTC"] = reference
        (folder / file).write_text(json.dumps(read))

    return damage


def link_out(name):
    def damage(folder):
        (folder.parent / "private").write_text((folder / name).read_text() if (folder / name).suffix != ".png" else "")
        (folder / name).unlink()
        (folder / name).symlink_to(folder.parent / "private")

    return damage


def set_weight_map(value):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": value}))


@pytest.mark.parametrize("flags", [["--dry_run"], []])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_auto_map("config.json", "/etc/private.Model"), r"`auto_map` of .*config\.json"),
        (set_auto_map("config.json", "../private.Model"), r"`auto_map` of .*config\.json"),
        (set_auto_map("config.json", "org/other--modeling_sim.SimModel"), r"`auto_map` of .*config\.json"),
        (set_auto_map("preprocessor_config.json", ["..\\x.A", None]), r"`auto_map` of .*preprocessor_config\.json"),
        (set_weight_map({"a": "../private.safetensors"}), r"'\.\./private\.safetensors'"),
        (set_weight_map({"a": "optimizer.safetensors"}), r"'optimizer\.safetensors'"),
        (set_weight_map(["model.safetensors"]), "`weight_map`"),
        *(
            (link_out(name), rf"{re.escape(name)} is a link")
            for name in ("curves.png", "log.jsonl", "results.json", "config.json", "modeling_sim.py")
        ),
    ],
)
def test_files_from_elsewhere_are_refused(damage, message, flags, hub, copy):
    damage(copy)
    with pytest.raises(SystemExit, match=message):
        publish.main([str(copy), "--repo_id", "org/tiny", *flags])
    assert hub.requests == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("label", "x/../../../written"), ("label", ".."), ("label", "a\nb"), ("label", 3), ("pooling", "../x")],
)
@pytest.mark.usefixtures("hub")
def test_a_measure_that_names_another_place_is_refused(field, value, run_folder, tmp_path):
    path = Path(measures(tmp_path)[0]) / "probe.json"
    read = json.loads(path.read_text())
    (read if field == "label" else read["settings"])[field] = value
    path.write_text(json.dumps(read))
    with pytest.raises(SystemExit, match=rf"`{field}` of {re.escape(str(path))}"):
        publish.main([str(run_folder), "--repo_id", "org/tiny", "--measures", str(path), "--dry_run"])


@pytest.mark.usefixtures("hub")
def test_pictures_of_measures_that_link_elsewhere_are_refused(run_folder, tmp_path):
    folder = Path(measures(tmp_path)[0])
    (folder / "probe.png").unlink()
    (folder / "probe.png").symlink_to("/etc/hostname")
    with pytest.raises(SystemExit, match=r"probe\.png"):
        publish.main([str(run_folder), "--repo_id", "org/tiny", "--measures", str(folder), "--dry_run"])


def test_of_a_checkpoint_only_what_the_trainer_wrote_is_uploaded(hub, copy):
    (copy / "checkpoint-2" / "notes.txt").write_text("not for others")
    publish.main([str(copy), "--repo_id", "org/tiny", "--with_training_state"])
    assert "checkpoint-2/trainer.pt" in hub.files("org/tiny")
    assert "checkpoint-2/notes.txt" not in hub.files("org/tiny")


def test_a_label_with_blanks_gives_a_file_that_links_reach(hub, run_folder, tmp_path):
    path = Path(measures(tmp_path)[0]) / "probe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "label": "type of noise"}))
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--measures", str(path)])
    assert {"probe_type_of_noise_frame.json", "probe_type_of_noise_frame.png"} <= set(hub.files("org/tiny"))


def test_a_card_of_ones_own_is_checked(hub, run_folder, tmp_path):
    card = tmp_path / "card.md"
    publish.main([str(run_folder), "--repo_id", "org/tiny"])
    text = hub.files("org/tiny")["README.md"].decode()
    card.write_text(text + "\n![Curves](gone.png)\n")
    hub.requests.clear()
    with pytest.raises(SystemExit, match=r"gone\.png"):
        publish.main([str(run_folder), "--repo_id", "org/tiny", "--card", str(card)])
    assert hub.requests == []
    card.write_text(text + "\nSaid in other words.\n")
    publish.main([str(run_folder), "--repo_id", "org/tiny", "--card", str(card)])
    assert hub.files("org/tiny")["README.md"].endswith(b"other words.\n")


def test_metadata_that_the_hub_refuses_makes_no_repository(hub, run_folder, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: no-such\n---\n# Tiny\n")
    with pytest.raises(SystemExit, match=r"README\.md.*no-such") as error:
        publish.main([str(run_folder), "--repo_id", "org/tiny", "--card", str(card)])
    assert "\n" not in str(error.value)
    assert hub.repos == {}


def test_check_reads_a_card_and_says_what_is_wrong(tmp_path, capsys):
    publish.main(["--check", str(CARDS / "librispeech_small.md")])
    assert "librispeech_small.md" in capsys.readouterr().out
    (tmp_path / "card.md").write_text("---\nlicense: [mine]\n---\n[More Information Needed]\n")
    with pytest.raises(SystemExit, match=r"`license` .*'mine'") as error:
        publish.main(["--check", str(tmp_path / "card.md")])
    assert "More Information Needed" in str(error.value)
    with pytest.raises(SystemExit, match=r"no\.md"):
        publish.main(["--check", str(tmp_path / "no.md")])


def add_axes(folder, **facts):
    """Axes of module 1, that swap its channels, for a checkpoint."""
    swapped = torch.eye(16).flip(0)
    facts = {
        "schema": 1,
        "minutes": 1.5,
        "encoder_fingerprint": weights_fingerprint(load_encoder(str(folder))),
        **facts,
    }
    save_axes(folder / AXES_NAME, {"module 1": LinearTransform(swapped, swapped.clone(), torch.zeros(16))}, facts)


def test_axes_are_published_with_a_line_in_the_card_and_used_from_the_hub(hub, run_folder, copy, noise, capsys):
    add_axes(copy, data=f"{run_folder}/my speech")
    for _ in range(2):  # again: the file is the same
        publish.main([str(copy), "--repo_id", "org/tiny"])
    assert titles(hub) == ["Upload a pretrained model"]
    files = hub.files("org/tiny")
    assert run_folder.parent.name.encode() not in files[AXES_NAME]
    card = files["README.md"].decode()
    assert "1.5 minutes of my speech" in card
    assert 'SimEmbedder("org/tiny", axes="temporal")' in card
    samples = noise(4000).numpy() / 8
    own, swapped = (SimEmbedder("org/tiny", 1, axes=axes, device="cpu") for axes in ("own", "temporal"))
    np.testing.assert_array_equal(swapped(samples), own(samples)[:, ::-1])
    publish.main([str(run_folder), "--repo_id", "org/tiny"])
    assert AXES_NAME not in hub.files("org/tiny")  # that of the earlier upload
    with pytest.raises(SystemExit, match="`output_dir`"):
        axes.main(["org/tiny", str(copy)])
    capsys.readouterr()
    publish.main([str(run_folder), "--repo_id", "org/bare"])
    hub.faults.append(Fault("error", AXES_NAME, times=99))
    with pytest.raises(FileNotFoundError, match=r"^org/bare.*axes\.safetensors.* org/bare DATA --output_dir .*$"):
        SimEmbedder("org/bare", 1, axes="temporal")


def test_axes_of_other_weights_or_from_elsewhere_are_not_published(hub, copy):
    add_axes(copy, encoder_fingerprint="other")
    with pytest.raises(SystemExit, match=r"axes\.safetensors"):
        publish.main([str(copy), "--repo_id", "org/tiny"])
    (copy / AXES_NAME).rename(copy.parent / AXES_NAME)
    (copy / AXES_NAME).symlink_to(copy.parent / AXES_NAME)
    with pytest.raises(SystemExit, match=r"axes\.safetensors is a link"):
        publish.main([str(copy), "--repo_id", "org/tiny"])
    assert hub.requests == []


def test_a_reader_of_the_output_that_has_gone_is_no_error(run_folder, tmp_path):
    """As in `publish.py --dry_run | head -1`: the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    with HubServer() as server:
        result = subprocess.run(
            [sys.executable, ROOT / "training" / "publish.py", run_folder, "--repo_id", "org/tiny", "--dry_run"],
            env={**server.environment(tmp_path), "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    os.close(writing)
    assert result.stderr == ""
    assert result.returncode == 128 + signal.SIGPIPE


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run that, by its results, was trained on data that is not for commercial use."""
    folder = tmp_path_factory.mktemp("base") / "base"
    settings = ["--model_settings", "{hidden_size: 16, context_size: 8}", *SYLLABLES]
    pretrain.main([*settings, "--output_dir", str(folder)])
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, "license": "cc-by-nc-sa-4.0"}))
    return folder


SYLLABLES = [
    "--corpus_settings",
    "{num_train: 8, num_test: 4, num_syllables: 1}",
    "--crop_samples",
    "4000",
    "--batch_size",
    "4",
    "--max_steps",
    "1",
]


@pytest.mark.parametrize(
    ("command", "flags", "tag"),
    [
        (finetune, ["--label", "vowel"], "audio-classification"),
        (finetune, ["--label", "phones"], "audio-classification"),
        (train_decoder, ["--module", "1"], "audio-to-audio"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_classifiers_and_decoders_have_cards_too(pretrained, tmp_path, capsys, command, flags, tag):
    folder = tmp_path / "run"
    command.main([*SYLLABLES, *flags, "--model", str(pretrained), "--output_dir", str(folder)])
    capsys.readouterr()
    publish.main([str(folder), "--repo_id", "org/run", "--dry_run"])
    output = capsys.readouterr().out
    assert f"pipeline_tag: {tag}" in output
    assert "license: cc-by-nc-sa-4.0" in output  # that of the base, though the syllables are free
    assert "License of the data: Apache-2.0" in output
    assert "- Base: `base`, a local checkpoint\n" in output
    assert "base_model" not in output
    assert str(tmp_path.parent) not in output
    # The card's own code runs on what is uploaded.
    (tmp_path / "staged").mkdir()
    publish_module.stage_run(folder, tmp_path / "staged", repo_id="org/run")
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "staged" / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    found = {}
    exec(blocks[0].replace('"org/run"', repr(str(tmp_path / "staged"))), found)  # noqa: S102 - the card's own
    assert {"classify", "logits", "waveforms"} & set(found)


def test_the_strictest_license_is_the_models():
    assert strictest(["apache-2.0", "cc-by-nc-sa-4.0"]) == "cc-by-nc-sa-4.0"
    assert strictest(["cc-by-4.0", None]) == "cc-by-4.0"
    assert strictest(["apache-2.0", "openrail"]) == "openrail"


def test_all_models_of_a_folder_are_published_and_listed(hub, pretrained, dimensions, tmp_path, capsys):
    pytest.importorskip("gradio", reason="a Space runs Gradio")
    models = tmp_path / "models"
    for name in ("one", "two"):
        shutil.copytree(pretrained, models / name)
        dimensions(name, 0.1).write(models / name / "analysis.json")
    train_decoder.main(
        [*SYLLABLES, "--module", "1", "--model", str(models / "one"), "--output_dir", str(models / "one-decoder")]
    )
    flags = [str(models), "--all", "org", "--space_dataset", "org/speech", "--with_training_state"]
    names = ["org/one", "org/one-decoder", "org/two", "org/one-explorer"]
    publish.main([*flags, "--dry_run"])
    assert not hub.repos
    assert not hub.collections
    shown = capsys.readouterr().out
    assert all(
        name in shown for name in (*names, "model.safetensors", "trainer.pt", "app.py", "org/speech", "analysis.json")
    )
    for _ in range(2):  # again: nothing is listed twice
        publish.main(flags)
        assert titles(hub, "org/one") == titles(hub, "org/two") == ["Upload a pretrained model"]
        (collection,) = hub.collections.values()
        assert [item["id"] for item in collection["items"]] == names
        assert [item["type"] for item in collection["items"]] == ["model"] * 3 + ["space"]


@pytest.mark.parametrize(("flags", "named"), [(["--repo_id", "org/one"], "repo_id"), ([], "checkpoint")])
def test_all_models_need_a_folder_of_models_and_no_name(flags, named, hub, tmp_path):
    with pytest.raises(SystemExit, match=named):
        publish.main([str(tmp_path), "--all", "org", *flags])
    assert not hub.repos


@pytest.mark.parametrize("name", ["two x", "two"])
def test_a_later_model_that_cannot_be_published_stops_all_before_the_first_upload(name, hub, run_folder, tmp_path):
    for folder in ("one", name):
        shutil.copytree(run_folder, tmp_path / folder)
    if name == "two":
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    with pytest.raises(SystemExit, match=name):
        publish.main([str(tmp_path), "--all", "org"])
    assert hub.requests == []


def test_a_data_set_of_a_space_has_a_name_that_can_be(hub, run_folder):
    with pytest.raises(SystemExit, match="`space_dataset` is 'x y'"):
        publish.main([str(run_folder), "--space", "--repo_id", "org/x", "--space_dataset", "x y", "--dry_run"])
    assert hub.requests == []


def test_a_card_that_is_not_utf8_is_named(hub, run_folder, tmp_path):
    (tmp_path / "card.md").write_bytes(b"\xff")
    with pytest.raises(SystemExit, match=r"card\.md"):
        publish.main([str(run_folder), "--repo_id", "org/tiny", "--card", str(tmp_path / "card.md")])
    assert hub.requests == []


def test_what_is_no_part_of_the_model_stays_here(pretrained, tmp_path):
    """A script with a token, or an optimizer's tensors, may be in a run's folder; neither is uploaded."""
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    (folder / "upload_helper.py").write_text('TOKEN = "hf_secret"\n')
    shutil.copyfile(folder / "model.safetensors", folder / "optimizer.safetensors")
    (tmp_path / "staged").mkdir()
    publish_module.stage_model(folder, tmp_path / "staged", shutil.copyfile)
    assert sorted(path.name for path in (tmp_path / "staged").iterdir()) == [
        "config.json",
        "configuration_sim.py",
        "feature_extraction_sim.py",
        "layers_sim.py",
        "model.safetensors",
        "modeling_sim.py",
        "objectives_sim.py",
        "preprocessor_config.json",
    ]
