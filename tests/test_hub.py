"""Effects of an upload on a repository with files, and when it is refused."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import Fault

import modeling_sim
from modeling_sim.files import MODEL_NAMES
from modeling_sim.hub.upload import MODEL_MESSAGE, HubError, check_repo_id, plan_upload, sort_files, upload

SIM = {"model_type": "sim", "architectures": ["SimForPreTraining"]}
CLASSIFIER = {"model_type": "sim", "architectures": ["SimForSequenceClassification"]}
DECODER = {"model_type": "sim-decoder", "architectures": ["SimDecoder"]}


@pytest.fixture
def api(hub):
    del hub  # it is that of this client
    return huggingface_hub.HfApi()


@pytest.fixture
def folder_of(tmp_path):
    """Makes a folder to upload: `folder_of(SIM, card="text")`."""

    def make(config, card="# Model\n", **files):
        folder = tmp_path / f"folder-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        if card is not None:
            (folder / "README.md").write_text(card)
        for name, text in files.items():
            (folder / name).write_text(text)
        return folder

    return make


def push(api, folder, **more):
    return upload(api, "org/model", folder, message=MODEL_MESSAGE, **more)


# ---------------------------------------------------------------------- files of before


OURS = (
    "model.safetensors model-00001-of-00002.safetensors model.safetensors.index.json modeling_sim.py "
    "configuration_sim_decoder.py results.json training_settings.json log.jsonl curves.png probe_phones_frame.json "
    "abx.png analysis.json checkpoint-20/trainer.pt checkpoint-20/model.safetensors processing_sim.py "
    "tokenizer_config.json vocabulary.json checkpoint-20/vocabulary.json"
)
OTHERS = (
    "pytorch_model.bin optimizer.safetensors my_results.json docs/results.json train_sim.py figures/curves.png "
    "checkpoint-20/optimizer.bin checkpoint-best/model.safetensors notes.md modeling_simple.py "
    "model-best-of-three.safetensors"
)


@pytest.mark.parametrize("name", OURS.split())
def test_a_file_of_an_earlier_upload_goes(name):
    assert sort_files([name, "config.json"], ["config.json"]) == (["config.json"], [name], [])
    assert sort_files([name], [name]) == ([name], [], [])


def test_code_of_every_model_is_a_file_of_a_model():
    code = {path.name for path in Path(modeling_sim.__file__).parent.glob("*_sim*.py")}
    assert {name for name in MODEL_NAMES if name.endswith(".py")} == code


@pytest.mark.parametrize("name", OTHERS.split())
def test_a_file_of_somebody_else_stays(name):
    assert sort_files([name], ["config.json"]) == ([], [], [name])


@pytest.mark.parametrize("name", [".gitattributes", "README.md"])
def test_what_every_repository_has_is_neither_deleted_nor_listed(name):
    assert sort_files([name], ["config.json"]) == ([], [], [])


def test_outdated_files_go_in_the_commit_that_brings_the_new_ones(api, hub, folder_of):
    push(api, folder_of(SIM, **{"curves.png": "1", "log.jsonl": "1", "notes.txt": "1"}))
    before = len(hub.repo("org/model").commits)
    plan = push(api, folder_of(SIM, **{"log.jsonl": "2"})).plan
    assert (plan.deleted, plan.staying) == (["curves.png"], ["notes.txt"])
    assert len(hub.repo("org/model").commits) == before + 1
    assert set(hub.files("org/model")) == {".gitattributes", "README.md", "config.json", "log.jsonl", "notes.txt"}
    assert push(api, folder_of(SIM, **{"log.jsonl": "2"})).plan.deleted == []
    assert len(hub.repo("org/model").commits) == before + 1


def test_a_branch_is_cleared_and_main_is_not(api, hub, folder_of):
    push(api, folder_of(SIM, **{"curves.png": "1"}))
    push(api, folder_of(SIM), revision="other")
    assert "curves.png" in hub.files("org/model")
    assert "curves.png" not in hub.files("org/model", "other")


def test_a_deletion_whose_answer_was_lost_is_not_asked_for_twice(api, hub, folder_of):
    push(api, folder_of(SIM, **{"curves.png": "1"}))
    before = len(hub.repo("org/model").commits)
    hub.faults.append(Fault("lost", "POST .*/commit/"))
    push(api, folder_of(SIM))
    assert hub.faults[0].times == 0
    assert len(hub.repo("org/model").commits) == before + 1
    assert "curves.png" not in hub.files("org/model")


# ---------------------------------------------------------------------- what needs a yes


@pytest.mark.parametrize("other", [CLASSIFIER, DECODER, {"model_type": "bert"}, {}, []])
def test_another_kind_of_model_is_replaced_on_request_alone(other, api, hub, folder_of):
    push(api, folder_of(other))
    with pytest.raises(HubError, match=r"org/model.*--yes"):
        push(api, folder_of(SIM))
    assert json.loads(hub.files("org/model")["config.json"]) == other
    push(api, folder_of(SIM), replace_others=True)
    assert json.loads(hub.files("org/model")["config.json"]) == SIM


def test_both_kinds_are_named(api, folder_of):
    push(api, folder_of(SIM))
    with pytest.raises(HubError, match=r"SimForPreTraining \(sim\).*SimDecoder \(sim-decoder\)"):
        push(api, folder_of(DECODER))
    push(api, folder_of({**SIM, "hidden_size": 3}))


def test_a_refused_upload_makes_no_branch(api, hub, folder_of):
    push(api, folder_of(SIM))
    with pytest.raises(HubError, match="org/model"):
        push(api, folder_of(DECODER), revision="decoder")
    assert set(hub.repo("org/model").branches) == {"main"}


def test_a_card_that_was_edited_on_the_hub_is_replaced_on_request_alone(api, hub, folder_of):
    push(api, folder_of(SIM, card="# One\n"))
    push(api, folder_of(SIM, card="# Two\n"))  # nobody's edit but ours
    api.upload_file(path_or_fileobj=b"# By hand\n", path_in_repo="README.md", repo_id="org/model")
    upload(api, "org/model", folder_of(SIM, card=None, **{"log.jsonl": "1"}), message="Upload checkpoint-2")
    new = folder_of(SIM, card="# Three\n")
    assert "README.md" in plan_upload(api, "org/model", new).objections[0]
    with pytest.raises(HubError, match=r"README\.md.*org/model.*--yes"):
        push(api, new)
    assert hub.files("org/model")["README.md"] == b"# By hand\n"
    push(api, new, replace_others=True)
    assert hub.files("org/model")["README.md"] == b"# Three\n"
    push(api, folder_of(SIM, card="# Four\n"))


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("repo_id", ["name", "", "a/b/c", "org/a..b"])
def test_a_repository_is_an_organization_and_a_name(repo_id):
    with pytest.raises(ValueError, match=f"`repo_id`.*'{repo_id}'"):
        check_repo_id(repo_id)
    check_repo_id("org/name")


def test_a_tag_or_a_commit_is_no_branch(api, hub, folder_of):
    push(api, folder_of(SIM))
    api.create_tag("org/model", tag="v1")
    for revision in ("v1", hub.repo("org/model").branches["main"]):
        with pytest.raises(HubError, match=f"{revision}.*org/model"):
            push(api, folder_of(SIM), revision=revision)
    with pytest.raises(HubError, match=r"org/model.*0000"):
        push(api, folder_of(SIM), revision="0" * 40)
    assert set(hub.repo("org/model").branches) == {"main"}


# ---------------------------------------------------------------------- errors


def test_an_error_of_the_hub_has_its_words_and_ours_alone(api, hub, folder_of):
    hub.faults.append(Fault("error", "POST .*/commit/", times=9))
    with pytest.raises(HubError) as error:
        push(api, folder_of(SIM))
    message = str(error.value)
    assert message.startswith(hub.url)
    assert all(part in message for part in ("500 (injected)", "org/model"))
    assert "\n" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize("kind", ["error", "drop", "truncate"])
@pytest.mark.parametrize(
    "pattern", ["GET .*models/org/model", "GET .*config.json", "GET .*commits/", "POST .*paths-info"]
)
def test_a_hub_that_cannot_be_looked_at_at_first_is_asked_again(kind, pattern, api, hub, folder_of):
    push(api, folder_of(SIM))
    hub.faults.append(Fault(kind, pattern))
    push(api, folder_of(SIM, card="# Two\n"))
    assert hub.faults[0].times == 0
    assert hub.files("org/model")["README.md"] == b"# Two\n"


def test_two_uploads_at_once_give_one_state_or_the_other(api, hub, folder_of):
    """Both look at the repository before either commits; the second is refused, and neither is mixed with the other."""
    push(api, folder_of(SIM))

    class OvertakenApi(huggingface_hub.HfApi):
        def create_commit(self, *arguments, **more):
            push(api, folder_of(SIM, **{"log.jsonl": "first"}))
            return super().create_commit(*arguments, **more)

    with pytest.raises(HubError, match="org/model"):
        push(OvertakenApi(), folder_of(SIM, **{"curves.png": "second"}))
    assert set(hub.files("org/model")) == {".gitattributes", "README.md", "config.json", "log.jsonl"}


def test_two_uploads_that_both_make_the_repository_end_as_two_that_find_it(api, hub, folder_of):
    class OvertakenApi(huggingface_hub.HfApi):
        def create_repo(self, *arguments, **more):
            push(api, folder_of(SIM, **{"log.jsonl": "first"}))
            return super().create_repo(*arguments, **more)

    assert push(OvertakenApi(), folder_of(SIM)).plan.deleted == ["log.jsonl"]
    assert len(hub.repo("org/model").commits) == 3
