"""The text tower, held against open_clip's, and the byte pairs that it reads."""

import copy

import pytest
import torch
from open_clip.transformer import TextTransformer as OpenClip

from simclr.errors import InputError
from simclr.models.text import TextTransformer
from simclr.models.tokenizer import END, START, BytePairs, ClipBytePairs, framed

SENTENCES = ["A dog runs over the grass.", "Two dogs play in the snow.", "a girl climbs the stairs of her playhouse"]
HARD = ['she said "hello, world"', "a 🐶 and a 🐱", "كلب يركض على العشب", "<end> of <start>, <padding>", "CAFÉ"]


def tower(context: int = 16, tokenizer: BytePairs | None = None) -> TextTransformer:
    torch.manual_seed(0)
    made = TextTransformer(tokenizer or BytePairs(600, True), 24, width=32, depth=3, heads=4, context=context)
    made.learn_words(SENTENCES * 20)
    return made.eval()


def test_it_is_open_clips_transformer():
    """Same weights, same tokens, same embeddings, in float64; the keys are those of an open_clip state dict."""
    ours = tower().double()
    theirs = OpenClip(
        context_length=16, vocab_size=600, width=32, heads=4, layers=3, output_dim=24, pool_type="eos", eos_id=END
    )
    weights = {name: tensor for name, tensor in ours.state_dict().items() if name != "_extra_state"}
    theirs.load_state_dict(weights)
    tokens = ours.tokens([*SENTENCES, *HARD]).ids
    torch.testing.assert_close(ours(tokens), theirs.double().eval()(tokens), rtol=0, atol=1e-12)


def test_padding_changes_no_embedding():
    short, long = tower(12), tower(30)
    with torch.no_grad():
        long.positional_embedding[:12] = short.positional_embedding
    rest = {name: tensor for name, tensor in short.state_dict().items() if name != "positional_embedding"}
    long.load_state_dict(rest, strict=False)
    sentence = SENTENCES[:1]
    alone = short(short.tokens(sentence).ids)
    torch.testing.assert_close(long(long.tokens(sentence).ids), alone, rtol=0, atol=1e-6)
    beside = short(short.tokens([*sentence, SENTENCES[2]]).ids)[:1]
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-6)


def test_what_comes_later_is_hidden():
    """Of a sentence cut short, the transformer has answered with the same up to there."""
    made = tower()
    blocks = []
    made.transformer.register_forward_hook(lambda *given: blocks.append(given[2]))
    tokens = made.tokens(SENTENCES[:1]).ids
    other = tokens.clone()
    other[:, 5:8] = torch.tensor([300, 301, 302])
    made(tokens), made(other)
    torch.testing.assert_close(blocks[0][:, :5], blocks[1][:, :5], rtol=0, atol=1e-6)
    assert not torch.allclose(blocks[0][:, 5], blocks[1][:, 5], atol=1e-3)


def test_every_text_can_be_written_and_read_again():
    made = BytePairs(600, lower_case=False)
    made.fit(SENTENCES)
    for sentence in [*SENTENCES, *HARD]:
        ids, cut = made.encode([sentence], 200)
        assert cut == 0
        end = int((ids[0] == END).int().argmax())
        inside = ids[0, 1:end].tolist()
        assert ids[0, 0] == START
        assert not {START, END} & set(inside)  # a caption that says <end> does not end there
        assert (ids[0, end + 1 :] == 0).all()
        pairs = made.made.model
        text = "".join(pairs.id_to_token(number) for number in inside)
        letters = dict(zip(map(_letter, range(256)), range(256), strict=True))
        assert bytes(letters[letter] for letter in text).decode() == f" {sentence}"


def _letter(byte: int) -> str:
    """GPT-2's letter for a byte: itself where that prints, else one of those from U+0100 on."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in prints else chr(256 + [b for b in range(256) if b not in prints].index(byte))


def test_a_sentence_that_is_too_long_is_cut_at_a_word_and_counted():
    made = BytePairs(600, lower_case=True)
    made.fit(SENTENCES)
    long = " ".join(["playhouse", "girl"] * 5_000)
    ids, cut = made.encode([long, "a dog"], 16)
    assert cut == 1
    for kept in range(1, 15):
        whole = made.encode([" ".join(long.split()[:kept])], 200).ids
        length = int((whole[0] == END).int().argmax()) + 1
        if length > 16:
            break
        best = whole[0, :length]
    assert ids[0, : len(best)].tolist() == best.tolist()
    assert (ids[0, len(best) :] == 0).all()
    assert framed([([7] * 50, [0] * 50)], 10, START, END).ids.tolist() == [[START, *[7] * 8, END]]  # one word alone


def test_case_and_blanks_count_as_asked_for():
    lower, exact = BytePairs(600, True), BytePairs(600, False)
    for made in (lower, exact):
        made.fit(SENTENCES)
    twice = ["A  DOG\truns ", "a dog runs"]
    assert torch.equal(*lower.encode(twice, 16).ids)
    assert not torch.equal(*exact.encode(twice, 16).ids)
    decomposed = ["cafe\u0301", "caf\u00e9"]
    assert torch.equal(*exact.encode(decomposed, 16).ids)


def test_its_words_travel_with_its_weights():
    made, other = tower(), tower(tokenizer=BytePairs(600, True))
    other.learn_words(["entirely different words, of another run"] * 9)
    assert made.learned != other.learned
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    assert other.learned == made.learned
    tokens = [m.tokens(SENTENCES).ids for m in (made, other)]
    assert torch.equal(*tokens)
    assert torch.equal(made(tokens[0]), other(tokens[0]))


@pytest.mark.parametrize("change", ["a letter", "another", "no state", "too many words"])
def test_a_tokenizer_that_was_changed_is_refused(change):
    made = tower()
    state = made.state_dict()
    if change == "a letter":
        state["_extra_state"] = state["_extra_state"].clone()
        state["_extra_state"][200] += 1
    elif change == "another":
        state["_extra_state"] = torch.cat([state["_extra_state"][:32], torch.tensor([*b"{}"], dtype=torch.uint8)])
    elif change == "no state":
        state["_extra_state"] = torch.zeros(3)
    else:
        large = tower(tokenizer=BytePairs(700, True))
        large.learn_words([f"{a}{b}{c} {c}{a}{b}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuv"] * 3)
        state["_extra_state"] = large.state_dict()["_extra_state"]
    with pytest.raises(InputError, match=r"the checkpoint's tokenizer .*; use another checkpoint"):
        made.load_state_dict(state)


@pytest.mark.parametrize(
    "setting", [{"heads": 5}, {"context": 2}, {"depth": 0}, {"width": "wide"}, {"context": 2000}], ids=str
)
def test_a_tower_that_cannot_be_is_refused(setting):
    sizes = {"width": 32, "depth": 1, "heads": 4, "context": 16} | setting
    with pytest.raises(ValueError, match=rf"{next(iter(setting))}=.* is not usable"):
        TextTransformer(BytePairs(600, True), 8, **sizes)


def test_clips_own_byte_pairs_are_open_clips():
    from open_clip import get_tokenizer

    made, theirs = ClipBytePairs(), get_tokenizer("ViT-B-32")
    assert torch.equal(made.encode([*SENTENCES, *HARD], 77).ids, theirs([*SENTENCES, *HARD]))
