"""The registry of methods. A new method is a file in this folder and a line below."""

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
METHODS.register("late", "components.methods.late:Late")
METHODS.register("lora", "components.methods.lora:LoRA")
METHODS.register("tempme", "components.methods.tempme:TempMe")
METHODS.register("discovla", "components.methods.discovla:DiscoVLA")
METHODS.register("dgl", "components.methods.dgl:DGL")
METHODS.register("dora", "components.methods.dora:DoRA")
METHODS.register("ia3", "components.methods.ia3:IA3")
METHODS.register("seq_transf", "components.methods.seq_transf:SeqTransf")
METHODS.register("stop", "components.methods.stop:STOP")
METHODS.register("vpt", "components.methods.vpt:VPT")
METHODS.register("coop", "components.methods.coop:CoOp")
METHODS.register("vop", "components.methods.vop:VoP")
# VoP's variants. components.methods.vop:PRESETS has the settings of each name.
for variant in ("vop_p", "vop_c", "vop_f", "vop_fp", "vop_fc", "vop_pc", "vop_fpc"):
    METHODS.register(variant, "components.methods.vop:VoP")
METHODS.register("mv_adapter", "components.methods.mv_adapter:MVAdapter")
