import pytest
from matplotlib.text import Text

from modeling_sim.plots import save_figure
from modeling_sim.trainer.curves import draw_curves, write_curves


def line(step, split, modules):
    names = ("loss", "contrastive_accuracy", "kl", "active_units")
    rows = [dict(zip(names, module, strict=True)) for module in modules]
    return {"step": step, "split": split, "modules": [{"name": f"module {n}", **row} for n, row in enumerate(rows)]}


def draw(*modules):
    log = [line(step, split, modules) for step in (0, 10, 20) for split in ("train", "test")]
    figure = draw_curves(log, chance=1 / 11, title="a run")
    figure.draw_without_rendering()
    return figure.axes


def test_every_module_has_a_curve_and_dots_in_every_panel():
    axes = draw((2.3, 0.2, 5.0, 16), (2.2, 0.3, 6.0, 12))
    assert [len(axis.lines) for axis in axes] == [4, 4 + 1, 4, 4]  # and chance
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["module 0", "module 1", "held-out data"]


def test_a_module_without_an_objective_has_no_loss_and_keeps_its_name():
    axes = draw((0.0, None, 0.0, 16), (2.4, 0.2, 0.0, 8))
    assert len(axes[0].lines) == 2
    assert axes[0].get_ylim()[0] > 2
    assert axes[0].get_legend().get_texts()[0].get_text() == "module 0"
    assert axes[2].texts[0].get_text() == "deterministic latents: no KL"


@pytest.mark.parametrize("active", [0, 16])
def test_units_are_whole_and_losses_are_written_out(active):
    axes = draw((2.3979, 0.1, 0.0, active), (2.39785, 0.1, 0.0, active))
    assert all(float(tick).is_integer() for tick in axes[3].get_yticks())
    assert axes[3].get_ylim()[1] >= 1
    assert axes[0].yaxis.get_offset_text().get_text() == ""


def test_names_are_drawn_as_they_are_and_a_logarithmic_axis_has_plain_numbers(tmp_path):
    log = [line(step, "train", [(10.0**step, 0.1, 1.0, 2)]) for step in range(5)]
    log[0]["modules"][0]["name"] = "$x^"
    figure = draw_curves(log, chance=None, title="a$b_$ and $\\nothing")
    save_figure(figure, tmp_path / "curves.png")
    texts = {text.get_text() for text in figure.findobj(Text)}
    assert {r"a\$b_\$ and $\nothing".replace(" $", r" \$"), r"\$x^"} <= texts


@pytest.mark.parametrize("written", ['{"step": 1}', "[1]", "3"])
def test_a_line_that_is_not_of_a_log_is_named(written, tmp_path):
    (tmp_path / "log.jsonl").write_text(f"{written}\n")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 1"):
        write_curves(tmp_path)


def test_a_log_with_a_byte_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"title": "\xff"}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl"):
        write_curves(tmp_path)
