"""The registry of methods; a new one is a file here and a line below."""

from __future__ import annotations

from components.plugins import Registry

METHODS: Registry[type] = Registry("method")
METHODS.register("zero_shot", "components.methods.zero_shot:ZeroShot")
METHODS.register("full", "components.methods.full:Full")
METHODS.register("bias", "components.methods.bias:Bias")
METHODS.register("proj", "components.methods.proj:Proj")
METHODS.register("partial", "components.methods.partial:Partial")
METHODS.register("adapter_attn", "components.methods.adapter_attn:AdapterAttn")
METHODS.register("adapter_ffn", "components.methods.adapter_ffn:AdapterFFN")
METHODS.register("adaptformer_par", "components.methods.adaptformer:AdaptFormerParallel")
METHODS.register("adaptformer_seq", "components.methods.adaptformer:AdaptFormerSequential")
METHODS.register("st_adapter", "components.methods.st_adapter:STAdapter")
METHODS.register("convpass", "components.methods.convpass:Convpass")
METHODS.register("cm_adapter", "components.methods.cm_adapter:CrossModalAdapter")
METHODS.register("lora", "components.methods.lora:LoRA")
METHODS.register("seq_transf", "components.methods.seq_transf:SeqTransf")
METHODS.register("vpt", "components.methods.vpt:VPT")
METHODS.register("coop", "components.methods.coop:CoOp")
METHODS.register("vop", "components.methods.vop:VoP")
METHODS.register("vop_p", "components.methods.vop:VoP")
METHODS.register("vop_c", "components.methods.vop:VoP")
METHODS.register("vop_f", "components.methods.vop:VoP")
METHODS.register("vop_fp", "components.methods.vop:VoP")
METHODS.register("vop_fc", "components.methods.vop:VoP")
METHODS.register("vop_pc", "components.methods.vop:VoP")
METHODS.register("vop_fpc", "components.methods.vop:VoP")
METHODS.register("mv_adapter", "components.methods.mv_adapter:MVAdapter")
