"""LLaMA's forward pass in plain float64 NumPy, written from the papers: loops over layers, heads and tokens, one text at a time.

It shares nothing with the package: weights come under Hugging Face's names with [out, in] matrices, RoPE is a product of complex
numbers, grouped heads are picked by index, and a query's softmax runs over the keys that it may see, so no masking constant exists.
"""

from collections.abc import Mapping

import numpy as np


def rms_norm(x_TD: np.ndarray, weight_D: np.ndarray, eps: float) -> np.ndarray:
    """Each row divided by its root mean square, times the weight."""
    return np.stack([x_D / np.sqrt(np.mean(x_D**2) + eps) * weight_D for x_D in x_TD])


def rotate(x_H: np.ndarray, position: int, theta: float) -> np.ndarray:
    """Numbers i and i + H/2 are the real and imaginary part of a complex number, turned by position · theta^(-2i/H)."""
    half = len(x_H) // 2
    angle = np.array([position / theta ** (2 * i / len(x_H)) for i in range(half)])
    turned = (x_H[:half] + 1j * x_H[half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag])


def softmax(x_S: np.ndarray) -> np.ndarray:
    """Probabilities proportional to exp(x)."""
    weight_S = np.exp(x_S - x_S.max())
    return weight_S / weight_S.sum()


def silu(x: np.ndarray) -> np.ndarray:
    """x · sigmoid(x)."""
    return x / (1 + np.exp(-x))


def attention(q_TNH: np.ndarray, k_TKH: np.ndarray, v_TKH: np.ndarray) -> np.ndarray:
    """Causal attention of grouped heads: query head n reads key/value head n // (N / K)."""
    length, num_heads, head_dim = q_TNH.shape
    group = num_heads // k_TKH.shape[1]
    y_TNH = np.zeros(q_TNH.shape)
    for t in range(length):
        for n in range(num_heads):
            scores = np.array([q_TNH[t, n] @ k_TKH[s, n // group] / np.sqrt(head_dim) for s in range(t + 1)])
            for s, weight in enumerate(softmax(scores)):
                y_TNH[t, n] += weight * v_TKH[s, n // group]
    return y_TNH


def logits(
    state: Mapping[str, np.ndarray],
    tokens: np.ndarray,
    *,
    num_heads: int,
    num_kv_heads: int,
    eps: float,
    theta: float,
    first_position: int = 0,
) -> np.ndarray:
    """The next-token logits [T, V] of one text; a state without `lm_head.weight` reads the embedding's rows in its place."""
    state = {name: np.asarray(value, np.float64) for name, value in state.items()}
    x_TD = np.stack([state["model.embed_tokens.weight"][token] for token in tokens])
    length = len(tokens)
    num_layers = len([name for name in state if name.endswith("input_layernorm.weight")])
    for layer in range(num_layers):
        weights = {name.split(".", 3)[3]: value for name, value in state.items() if name.startswith(f"model.layers.{layer}.")}
        h_TD = rms_norm(x_TD, weights["input_layernorm.weight"], eps)
        q_TNH = (h_TD @ weights["self_attn.q_proj.weight"].T).reshape(length, num_heads, -1)
        k_TKH = (h_TD @ weights["self_attn.k_proj.weight"].T).reshape(length, num_kv_heads, -1)
        v_TKH = (h_TD @ weights["self_attn.v_proj.weight"].T).reshape(length, num_kv_heads, -1)
        for heads in (q_TNH, k_TKH):
            for t in range(length):
                for n in range(heads.shape[1]):
                    heads[t, n] = rotate(heads[t, n], first_position + t, theta)
        y_TNH = attention(q_TNH, k_TKH, v_TKH)
        x_TD = x_TD + y_TNH.reshape(length, -1) @ weights["self_attn.o_proj.weight"].T
        h_TD = rms_norm(x_TD, weights["post_attention_layernorm.weight"], eps)
        gated_TF = silu(h_TD @ weights["mlp.gate_proj.weight"].T) * (h_TD @ weights["mlp.up_proj.weight"].T)
        x_TD = x_TD + gated_TF @ weights["mlp.down_proj.weight"].T
    x_TD = rms_norm(x_TD, state["model.norm.weight"], eps)
    return x_TD @ state.get("lm_head.weight", state["model.embed_tokens.weight"]).T
