"""Where models come from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from llmfeat import TextEncoder, export_model
from llmfeat.errors import DownloadError, ExportError, LLMFeatWarning
from llmfeat.export import open_source
from llmfeat.export.fetch import is_non_commercial
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def write_gguf(model, path, *, without=""):
    """Write a tiny Llama's folder as llama.cpp's converter does: its tensors' names, its order of rotary pairs."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())["model"]
    n_heads, n_kv = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_license("mit")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
    writer.add_token_types([3 if at < 3 else 1 for at in range(config["vocab_size"])])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, tensor in load_file(model / "model.safetensors").items():
        if name == without:
            continue
        if name.startswith("model.layers."):
            layer, _, rest = name.removeprefix("model.layers.").partition(".")
            part = rest.removesuffix(".weight")
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = n_heads if part.endswith("q_proj") else n_kv
                halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
            writer.add_tensor(f"blk.{layer}.{names[part]}.weight", np.ascontiguousarray(tensor))
        else:
            plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
            writer.add_tensor(plain[name], tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_a_gguf_file_gives_what_its_weights_give(tmp_path):
    model = save_tiny("llama", tmp_path / "model")
    write_gguf(model, tmp_path / "model.gguf")
    artifact = export_model(tmp_path / "model.gguf", tmp_path / "from_gguf", pooling="mean")
    assert artifact.spec.licence == "mit"
    assert artifact.spec.architecture == "LlamaForCausalLM"
    plain = export_model(model, tmp_path / "plain", pooling="mean")
    texts = ["steel bottle, 750 ml", "a"]
    # Another order of the same additions: the rotary pairs went there and back.
    np.testing.assert_allclose(TextEncoder(artifact).encode(texts), TextEncoder(plain).encode(texts), atol=1e-5)


def test_a_gguf_file_that_lacks_a_weight(tmp_path):
    model = save_tiny("llama", tmp_path / "model")
    write_gguf(model, tmp_path / "model.gguf", without="model.layers.1.mlp.down_proj.weight")
    with pytest.raises(ExportError, match=r"model\.gguf lacks 1 weights, such as 'model\.layers\.1\.mlp\.down_proj"):
        export_model(tmp_path / "model.gguf", tmp_path / "artifact")


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(ExportError, match=r"model\.gguf is no GGUF file"):
        export_model(tmp_path / "model.gguf", tmp_path / "artifact")


class TestHub:
    def test_a_model_of_the_hub_is_fetched_without_pickles_at_its_revision(self, models, tmp_path, monkeypatch):
        import huggingface_hub

        asked = []

        def snapshot_download(repo, **how):
            asked.append((repo, how))
            return str(shutil.copytree(models["bert"], tmp_path / "0123abcd"))

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        with open_source("owner/name@v1") as source:
            assert (source.name, source.revision) == ("owner/name", "0123abcd")
        ((repo, how),) = asked
        assert (repo, how["revision"]) == ("owner/name", "v1")
        assert "*.safetensors" in how["allow_patterns"]
        assert not any(".bin" in pattern or ".py" in pattern for pattern in how["allow_patterns"])

    def test_without_a_hub_the_error_says_what_to_do(self, tmp_path, monkeypatch):
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(DownloadError, match=r"'owner/name' is no folder here.*HF_HUB_OFFLINE and HF_TOKEN"):
            export_model("owner/name", tmp_path / "artifact")


class TestFolders:
    def test_what_is_no_model(self, tmp_path):
        for wrong, message in (
            ("nothing", r"'nothing' is no model: pass a Hugging Face id"),
            ("bundled:gpt9", r"the bundled models are \['bundled:minilm', 'bundled:smollm2'\]"),
            (tmp_path, r"holds no config\.json"),
        ):
            with pytest.raises(ExportError, match=message), open_source(wrong):
                pass

    def test_pickles_are_not_read(self, models, tmp_path):
        folder = shutil.copytree(models["bert"], tmp_path / "model")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ExportError, match=r"holds no \.safetensors.*pickles are not read"):
            export_model(folder, tmp_path / "artifact")

    def test_no_code_of_a_model_is_run(self, models, tmp_path):
        folder = shutil.copytree(models["bert"], tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        with pytest.raises(ExportError, match="llmfeat runs no code that comes with a model"):
            export_model(folder, tmp_path / "artifact")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.slow
    def test_nor_is_anybody_asked_whether_to_run_it(self, models, tmp_path):
        """Somebody at the terminal who says yes to everything still runs nothing."""
        for named in ("AutoProcessor", "AutoTokenizer", "AutoModel"):
            folder = shutil.copytree(models["bert"], tmp_path / named)
            for name in ("tokenizer_config.json", "config.json"):
                config = json.loads((folder / name).read_text())
                entry = ["evil.Evil", None] if named == "AutoTokenizer" else "evil.Evil"
                (folder / name).write_text(json.dumps({**config, "auto_map": {named: entry}}))
            (folder / "evil.py").write_text(
                f"open({str(tmp_path / 'ran')!r}, 'a').write({named!r})\nclass Evil: pass\n"
            )
        code = f"""if True:
            from llmfeat import export_model
            from llmfeat.errors import ExportError
            for named in ("AutoProcessor", "AutoTokenizer", "AutoModel"):
                try:
                    export_model({str(tmp_path)!r} + "/" + named, {str(tmp_path)!r} + "/artifact-" + named)
                    print("exported")
                except ExportError as error:
                    print(str(error).splitlines()[0])
        """
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, input="y\n" * 27, text=True, capture_output=True, check=False, timeout=120)
        assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
        # Without its code each is a plain BERT, or refused.
        said = done.stdout.splitlines()
        assert len(said) == 3, done.stderr
        assert all(line == "exported" or line.startswith("sentence-transformers") for line in said), said

    def test_files_that_are_broken(self, models, tmp_path):
        folder = shutil.copytree(models["bert"], tmp_path / "model")
        (folder / "README.md").write_text("---\nlicense: [unclosed\n---\n")
        with open_source(folder) as source:
            assert source.licence == "unknown"
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
        with pytest.raises(ExportError, match="cannot be loaded"):
            export_model(folder, tmp_path / "artifact")
        (folder / "modules.json").write_text("[")
        with pytest.raises(ExportError, match=r"modules\.json cannot be read"):
            export_model(folder, tmp_path / "artifact")

    def test_an_encoder_with_a_decoder(self, models, tmp_path):
        folder = shutil.copytree(models["bert"], tmp_path / "model")
        (folder / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5Model"]}))
        with pytest.raises(ExportError, match=r"is an encoder with a decoder \(T5Model\)"):
            export_model(folder, tmp_path / "artifact")

    def test_no_tokenizer(self, models, tmp_path):
        folder = shutil.copytree(models["bert"], tmp_path / "model")
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / name).unlink()
        with pytest.raises(ExportError, match=r"is tokenizer\.json in"):
            export_model(folder, tmp_path / "artifact")


class TestLicence:
    @pytest.mark.parametrize("name", ["cc-by-nc-4.0", "cc-by-nc-sa-4.0", "nc", "Some Non-Commercial License"])
    def test_non_commercial(self, name):
        assert is_non_commercial(name)

    @pytest.mark.parametrize("name", ["apache-2.0", "mit", "cc-by-4.0", "unknown", "ncsa", "gemma"])
    def test_others(self, name):
        assert not is_non_commercial(name)

    def test_it_is_read_from_the_card_and_warned_of(self, models, tmp_path):
        folder = shutil.copytree(models["bert"], tmp_path / "model")
        (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Model\n")
        with pytest.warns(LLMFeatWarning, match="forbids commercial use"):
            artifact = export_model(folder, tmp_path / "artifact")
        assert artifact.spec.licence == "cc-by-nc-4.0"
