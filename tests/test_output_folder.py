"""Files of other programs in an output folder are neither deleted nor replaced, whatever their names."""

import json
import os
import stat

import pytest

from modeling_sim.evaluation.settings import AbxArguments, AnalysisArguments, ProbeArguments, claim_output_dir
from modeling_sim.files import follow_umask, remove_folder, replacing, temporary_folder
from modeling_sim.trainer.checkpoints import own_checkpoints, sealed, unsealed
from modeling_sim.trainer.run_folder import (
    CLAIM_NAME,
    LOCK_NAME,
    RunFolder,
    claim_folder,
    clear_folder,
)

STATE = json.dumps({"comparable_config": {}, "files": {"trainer.pt": "0"}})


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (CLAIM_NAME, LOCK_NAME)
    }


def fill(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("overwrite_output_dir", [False, True])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "results.json", "training_settings.json"])
def test_a_folder_with_a_file_of_another_program_is_refused(tmp_path, name, overwrite_output_dir):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=name):
        RunFolder(tmp_path).claim(resume="auto", overwrite_output_dir=overwrite_output_dir)
    assert contents(tmp_path) == {name: b"mine"}


def test_files_of_other_names_are_no_obstacle_and_stay(tmp_path):
    fill(tmp_path, **{"notes.txt": "mine", "checkpoint-500/mine": "x", ".checkpoint-backup/mine": "x"})
    fill(tmp_path, **{"checkpoint-7/trainer_state.json": '{"global_step": 7}', ".saving-abcdefgh/thesis.tex": "x"})
    before = contents(tmp_path)
    RunFolder(tmp_path).claim(resume="auto", overwrite_output_dir=True)
    RunFolder(tmp_path).clear()
    assert contents(tmp_path) == before


def test_settings_of_another_version_do_not_count(tmp_path):
    claim_folder(tmp_path, "probe", ["probe.json"], settings={"label": "phones", "removed": 1})
    (tmp_path / "probe.json").touch()
    claim_folder(tmp_path, "probe", ["probe.json"], settings={"label": "phones", "new": 2})
    with pytest.raises(FileExistsError, match="label"):
        claim_folder(tmp_path, "probe", ["probe.json"], settings={"label": "vowel", "new": 2})


def test_only_claimed_files_are_cleared(tmp_path):
    claim_folder(tmp_path, "analysis", ["analysis.json", "*.npz"])
    fill(tmp_path, **{"analysis.json": "{}", "media.npz": "", "notes.txt": "mine", "config.json": "mine"})
    fill(tmp_path, **{"checkpoint-3/trainer_state.json": STATE})
    clear_folder(tmp_path, "analysis")
    assert set(contents(tmp_path)) == {"notes.txt", "config.json", "checkpoint-3/trainer_state.json"}
    with pytest.raises(FileExistsError, match=r"config\.json"):
        RunFolder(tmp_path).claim(resume="auto", overwrite_output_dir=True)


def test_an_earlier_command_is_replaced_only_on_demand(tmp_path):
    names = ["probe.json", "probe.png"]
    claim_folder(tmp_path / "new", "probe", names)
    (tmp_path / "new" / "probe.json").write_text("{}")
    with pytest.raises(FileExistsError, match="`overwrite_output_dir`"):
        claim_folder(tmp_path / "new", "probe", names)
    claim_folder(tmp_path / "new", "probe", names, overwrite_output_dir=True)
    claim_folder(tmp_path / "new", "ABX test", ["abx.json"])
    with pytest.raises(FileExistsError, match=r"probe\.json"):
        claim_folder(tmp_path / "new", "analysis", ["probe.json"], overwrite_output_dir=True)


def test_the_same_command_may_be_given_again(tmp_path):
    claim_folder(tmp_path, "probe", ("probe.json",), settings={"label": "vowel", "model": ["a"]})
    fill(tmp_path, probe_DOT_json="{}")
    claim_folder(tmp_path, "probe", ("probe.json",), settings={"label": "vowel", "model": ["a"]})
    with pytest.raises(FileExistsError, match=r"`label` .*probe\.json"):
        claim_folder(tmp_path, "probe", ("probe.json",), settings={"label": "phones", "model": ["a"]})


@pytest.mark.parametrize("arguments", [ProbeArguments, AbxArguments, AnalysisArguments])
def test_results_of_another_corpus_are_refused_by_its_name(tmp_path, arguments):
    claim_output_dir(
        arguments(model=["a"], corpus="librispeech", output_dir=str(tmp_path)), "analysis", ["analysis.json"], []
    )
    fill(tmp_path, analysis_DOT_json="{}")
    with pytest.raises(FileExistsError, match="`corpus`"):
        claim_output_dir(arguments(model=["a"], output_dir=str(tmp_path)), "analysis", ["analysis.json"], [])


def test_results_of_versions_without_claims_are_known_by_their_content(tmp_path):
    fill(tmp_path, **{"abx.json": '{"versions": {"modeling_sim": "0.1"}}', "abx.png": ""})
    with pytest.raises(FileExistsError, match="`overwrite_output_dir`"):
        claim_folder(tmp_path, "ABX test", ["abx.json", "abx.png"])
    claim_folder(tmp_path, "ABX test", ["abx.json", "abx.png"], overwrite_output_dir=True)


def test_an_unfinished_run_of_versions_without_claims_is_resumed_and_owns_no_weights(tmp_path):
    fill(tmp_path, **{"checkpoint-3/trainer_state.json": STATE, "log.jsonl": ""})
    (tmp_path / "other").mkdir()
    fill(tmp_path / "other", **{"checkpoint-3/trainer_state.json": STATE, "model.safetensors": "mine"})
    RunFolder(tmp_path).claim(resume="auto", overwrite_output_dir=False)
    with pytest.raises(FileExistsError, match=r"model\.safetensors"):
        RunFolder(tmp_path / "other").claim(resume="auto", overwrite_output_dir=True)


def test_leftovers_of_killed_processes_are_removed_when_a_run_is_claimed(tmp_path):
    for name in (".checkpoint-11.999999", ".saving-abcdefgh", ".pushing-checkpoint-4.abcdefgh", ".model.12-1"):
        fill(tmp_path, **{f"{name}/config.json": "{}", f"{name}/model.safetensors": ""})
    fill(tmp_path, **{".checkpoint-3.7/checkpoint-3/trainer.pt": "", ".latents-0/latents.npy": ""})
    fill(tmp_path, **{".log.jsonl.77": "", ".notes.txt.77": "mine", ".checkpoint-4.7/mine": "x", ".latents-1/x": "x"})
    RunFolder(tmp_path).claim(resume="auto", overwrite_output_dir=False)
    assert set(contents(tmp_path)) == {".notes.txt.77", ".checkpoint-4.7/mine", ".latents-1/x"}


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        claim_folder(tmp_path / "file", "probe", ["probe.json"])


def test_a_damaged_checkpoint_is_still_its_own(tmp_path):
    fill(tmp_path, **{"checkpoint-3/trainer_state.json": STATE[:30], "checkpoint-4/trainer_state.json": "{}"})
    fill(tmp_path, **{"checkpoint-05/trainer_state.json": STATE})
    assert [path.name for path in own_checkpoints(tmp_path)] == ["checkpoint-3"]


@pytest.mark.parametrize("seed", range(20))
def test_a_state_file_is_sealed_against_every_flipped_bit(seed):
    numbers = {"counts": {"step": 3, "position": 40}, "settings": {"seed": 0, "rate": 1e-3}, "loss": float("nan")}
    content = json.dumps(sealed(numbers)).encode()
    right = unsealed(json.loads(content))
    assert right == {**numbers, "loss": None}
    for place in range(seed, 8 * len(content), 20):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        try:
            assert unsealed(json.loads(damaged)) == right
        except ValueError:
            continue


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_what_is_written_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        with temporary_folder(tmp_path / "folder") as temporary:
            os.close(os.open(temporary / "weights", os.O_CREAT | os.O_WRONLY, 0o600))
            follow_umask(temporary)
            temporary.replace(tmp_path / "folder")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder", "folder/weights")]
    assert modes == [0o666 & ~umask, 0o777 & ~umask, 0o666 & ~umask]


def test_temporary_folders_never_meet_what_is_there(tmp_path):
    with temporary_folder(tmp_path / "folder") as first, temporary_folder(tmp_path / "folder") as second:
        assert first != second
        (first / "file").write_text("")
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder").mkdir()
    remove_folder(tmp_path / "folder")
    assert not list(tmp_path.iterdir())
