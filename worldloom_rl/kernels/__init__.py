"""The same numbers faster: what hand-written gradients and fused passes save where PyTorch has no kernel that fits.

Each file says which plain function it equals, when it is taken and what it saved. Read the plain function first;
nothing here adds to what a model is.

    kernel                       equals
    one_hot                      torch.nn.functional.one_hot
    attention                    torch.nn.functional.scaled_dot_product_attention
    mish                         torch.nn.functional.mish
    grouped_softmax              Tensor.softmax
    straight_through             functional.straight_through
    rms_norm_silu                functional.rms_norm_silu
    sparse_cross_entropy         functional.two_hot.soft_cross_entropy of a target that is zero almost everywhere
    symexp_two_hot_mean          functional.symexp_two_hot.symexp_two_hot_mean
    late_bias                    torch.nn.functional.linear and torch.baddbmm
    block_gru_update             functional.block_gru_update
    wide_block_linear            nn.block_linear.BlockLinear with a shared input

`transforms` says where none of them serves; `context` is the type that their gradients share.
"""
