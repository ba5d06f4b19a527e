"""The frame that all pictures share."""

from monosem.svg import picture


def test_the_middle_of_a_long_title_is_left_out_and_its_whole_is_the_label():
    title = f"topk SAE on blocks.0.mlp.hook_post of {'a/long/path/' * 12}model; 5,000 tokens"
    drawn = picture(title, [], 100)
    assert f'aria-label="{title}"' in drawn
    shown = drawn.split('y="34">')[1].split("</text>")[0]
    assert len(shown) <= 131 and shown.startswith("topk SAE on blocks.0.mlp") and shown.endswith("model; 5,000 tokens")
    assert '<text x="30" y="34">short</text>' in picture("short", [], 100)
