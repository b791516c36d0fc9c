"""The network of a diffusion: from a noisy image, a step and a condition to what the noise was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..backend import Array, Generator, use
from ..errors import ConfigError, ShapeError
from ..layers import Conv2d, GroupNorm, LayerList, SiLU, TimestepEmbedding
from ..layers.skip import join_channels, split_channels
from .conditional_blocks import AttendingBlock, Enlarge, Given, GivenGradient, Halve
from .conditions import ClassCondition, ContextCondition
from .config import ModelConfig, count, flag, number, optional
from .network import Network, counts


@dataclass
class ConditionalUNetConfig(ModelConfig):
    """Settings of :class:`ConditionalUNet`; all mistakes are reported at once.

    Attributes
    ----------
    in_channels, out_channels : of the noisy image, and of what comes out (None: as many)
    base : channels of the first level
    channel_multipliers : channels of each level, as multiples of base; the image is halved between levels
    blocks_per_level : residual blocks of a level on the way down; on the way up there is one more
    attention_levels : levels whose blocks attend, 0 being the largest image. The middle always does
    num_heads, num_groups : of the attention, of the group norms; each divides the channels where it is used
    num_steps : T, steps are in [0, T)
    num_classes : K for a condition of class ids in [0, K], where K means no class; or None
    context_dim : D for a condition of vectors (B, D) or sequences (B, L, D); or None
    scale_shift : let the step stretch and shift the second norm of a block, instead of being added before it
    dropout : before the second convolution of a block
    seed, device, dtype : as in :class:`~tinygrad_edu.models.config.ModelConfig`
    """

    in_channels: int = count(3)
    out_channels: int | None = optional(count(1))
    base: int = count(64)
    channel_multipliers: tuple[int, ...] = counts((1, 2, 4))
    blocks_per_level: int = count(2)
    attention_levels: tuple[int, ...] = counts((2,), at_least=0)
    num_heads: int = count(4)
    num_groups: int = count(8)
    num_steps: int = count(1000)
    num_classes: int | None = optional(count(1))
    context_dim: int | None = optional(count(1))
    scale_shift: bool = flag(False)
    dropout: float = number(0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.channel_multipliers = tuple(self.channel_multipliers)  # JSON has lists
        self.attention_levels = tuple(self.attention_levels)

    @classmethod
    def _conflicts(cls, settings: dict[str, Any]) -> list[str]:
        widths = [settings["base"] * times for times in settings["channel_multipliers"]]
        groups, heads, levels = settings["num_groups"], settings["num_heads"], settings["attention_levels"]
        if not widths:
            return ["channel_multipliers must have a number for each level, got none"]
        wrong = [
            f"num_groups must divide the channels of each level, {groups} does not divide {width}"
            for width in dict.fromkeys(widths)
            if width % groups
        ]
        beyond = [level for level in levels if level >= len(widths)]
        if beyond:
            wrong.append(f"attention_levels must be in [0, {len(widths)}), got {beyond[0]}")
        attending = {widths[level] for level in levels if level < len(widths)} | {widths[-1]}
        wrong += [
            f"num_heads must divide the channels where there is attention, {heads} does not divide {width}"
            for width in sorted(attending)
            if width % heads
        ]
        if settings["num_classes"] is not None and settings["context_dim"] is not None:
            wrong.append("num_classes and context_dim: a condition is either classes or vectors, so one must be None")
        if settings["base"] < 4:
            wrong.append(
                f"base must be at least 4, so that the step has some sines and cosines, got {settings['base']}"
            )
        return wrong


class ConditionalUNet(Network):
    """U-Net of a diffusion (Ho et al., 2020), with attention to a condition (Rombach et al., 2022).

    Down, each block's output is kept aside; up, it stands beside what comes from below. Every block is told the step,
    and the condition's vector with it; blocks that attend look at all pixels and then at the condition's sequence. The
    last convolution, and the last map of each branch, begin as zeros: the network begins as a short one and gives 0.
    Images may have any size: halving rounds up, and what is doubled is cut to the size that it had.

    Without attention among pixels and conditions, it is diffusers' ``UNet2DModel``; its attention differs in names.

    Parameters
    ----------
    in_channels, base, channel_multipliers, blocks_per_level, attention_levels, num_classes, context_dim, num_heads,
    num_groups, num_steps, scale_shift, dropout, out_channels : as in :class:`ConditionalUNetConfig`
    flat : whether to lay the parameters in one buffer; see :meth:`Layer.flatten`
    common : seed, device, dtype

    Raises
    ------
    ConfigError
        Listing every setting that is not allowed.

    Examples
    --------
    >>> net = ConditionalUNet(3, base=32, num_classes=10)
    >>> noise = net(x, t, labels)  # (B, 3, H, W), (B,) steps, (B,) ids; 10 stands for no class
    """

    model_type = "conditional_unet"
    config_class: ClassVar[type[ModelConfig]] = ConditionalUNetConfig

    def __init__(
        self,
        in_channels: int = 3,
        base: int = 64,
        channel_multipliers: tuple[int, ...] = (1, 2, 4),
        blocks_per_level: int = 2,
        attention_levels: tuple[int, ...] = (2,),
        num_classes: int | None = None,
        context_dim: int | None = None,
        num_heads: int = 4,
        num_groups: int = 8,
        num_steps: int = 1000,
        scale_shift: bool = False,
        dropout: float = 0.0,
        out_channels: int | None = None,
        *,
        flat: bool = True,
        **common: Any,
    ):
        super().__init__()
        self.config = c = ConditionalUNetConfig(
            in_channels, out_channels, base, channel_multipliers, blocks_per_level, attention_levels, num_heads,
            num_groups, num_steps, num_classes, context_dim, scale_shift, dropout, **common,
        )  # fmt: skip
        self.out_channels = in_channels if out_channels is None else out_channels
        with use(c.device):
            self.generator = Generator(c.seed)
            self._build(c)
        self._settle(flat)

    def _build(self, c: ConditionalUNetConfig) -> None:
        self.embed_dim = 4 * c.base
        widths = [c.base * times for times in c.channel_multipliers]
        self.time_embedding = TimestepEmbedding(c.base, self.embed_dim, c.num_steps, generator=self.generator)
        self.condition: ClassCondition | ContextCondition | None = None
        if c.num_classes is not None:
            self.condition = ClassCondition(c.num_classes, self.embed_dim, self.generator)
        elif c.context_dim is not None:
            self.condition = ContextCondition(c.context_dim, self.embed_dim, self.generator)
        self.act_embedding = SiLU()

        self.conv_in = Conv2d(c.in_channels, c.base, 3, padding=1, generator=self.generator)
        self.down, self.middle, self.up = LayerList(), LayerList(), LayerList()
        width, kept = c.base, [c.base]  # channels so far, and of each output that is kept aside
        for level, own in enumerate(widths):
            for _ in range(c.blocks_per_level):
                self.down.append(self._block(width, own, level in c.attention_levels))
                width = own
                kept.append(width)
            if level < len(widths) - 1:
                self.down.append(Halve(width, self.generator))
                kept.append(width)
        self.middle.append(self._block(width, width, True))
        self.middle.append(self._block(width, width, False))
        for level, own in reversed(list(enumerate(widths))):
            for _ in range(c.blocks_per_level + 1):
                self.up.append(self._block(width + kept.pop(), own, level in c.attention_levels))
                width = own
            if level > 0:
                self.up.append(Enlarge(width, self.generator))
        self.conv_norm_out, self.act_out = GroupNorm(c.num_groups, width), SiLU()
        self.conv_out = Conv2d(width, self.out_channels, 3, padding=1, generator=self.generator)
        for parameter in self.conv_out.parameters():
            parameter.data.fill(0)

    def _block(self, in_channels: int, channels: int, attend: bool) -> AttendingBlock:
        c = self.config
        return AttendingBlock(
            in_channels, channels, self.embed_dim, c.num_groups, c.num_heads if attend else 0, c.context_dim,
            c.scale_shift, c.dropout, self.generator,
        )  # fmt: skip

    # -- conditions ------------------------------------------------------------------------------------

    def null_condition(self, batch: int) -> Array | None:
        """The condition that says nothing, for `batch` images: as :meth:`forward` takes it, or None if it takes none.

        For classes it is the id after the last. For vectors it is a copy of the learned one; where it shall learn,
        give :meth:`forward` `drop` instead.
        """
        return None if self.condition is None else self.condition.null(batch)

    def _embed(self, t: Array, condition: Any, mask: Any, drop: Any) -> Given:
        """The vector that every block is told, (B, E), and the sequence that attention looks at, with its mask."""
        time = self.time_embedding(t)
        if self.condition is None:
            for name, value in (("condition", condition), ("mask", mask), ("drop", drop)):
                if value is not None:
                    raise ConfigError(
                        f"ConditionalUNet: {name} was given, but the network has neither num_classes nor context_dim"
                    )
            return Given(self.act_embedding(time))
        if condition is None:
            raise ConfigError(
                "ConditionalUNet: condition is missing; for images without one give null_condition(batch), or drop"
            )
        vector, context, mask = self.condition(condition, mask, drop, len(t))
        return Given(self.act_embedding(time + vector), context, mask)

    # -- forward and backward --------------------------------------------------------------------------

    def forward(
        self, x: Array, t: Array, condition: Array | None = None, mask: Array | None = None, drop: Array | None = None
    ) -> Array:
        """What the network makes of noisy images; noise, say, or the images themselves.

        Parameters
        ----------
        x : (B, in_channels, H, W), of any size
        t : (B,) integers in [0, num_steps)
        condition : (B,) class ids in [0, num_classes], the last for none; or (B, D) or (B, L, D)
        mask : (B, L) bool, False at padding of the condition
        drop : (B,) bool, True where the condition is put aside for the learned one that says nothing, as
            classifier-free guidance does now and then in training (Ho & Salimans, 2022)

        Returns
        -------
        (B, out_channels, H, W)

        Raises
        ------
        ShapeError, DtypeError, RangeError, ConfigError
            For what does not fit the network or the other arguments, or is missing.
        """
        self._check_images(x, self.config.in_channels, 1)
        if getattr(t, "ndim", 0) == 1 and len(t) != len(x):
            raise ShapeError(f"ConditionalUNet: t must have a step for each of {len(x)} images, got {len(t)}")
        given = self._embed(t, condition, mask, drop)
        x = self.conv_in(x)
        kept = [x]
        for layer in self.down:
            x = layer(x, given)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, given)
        joined = []
        for layer in self.up:
            if isinstance(layer, Enlarge):
                x = layer(x, kept[-1].shape[2:])
                continue
            joined.append(x.shape[1])
            x = layer(join_channels(x, kept.pop()), given)
        self.save(joined)
        return self.conv_out(self.act_out(self.conv_norm_out(x)))

    def backward(self, dy: Array) -> Array | tuple[Array, Array]:
        """Gradient of the images; and of the condition, if it is of vectors."""
        dx = self.conv_norm_out.backward(self.act_out.backward(self.conv_out.backward(dy)))
        joined = self.saved()
        total = GivenGradient()
        dkept = []  # gradients of what was kept aside, the first first
        for layer in reversed(list(self.up)):
            if isinstance(layer, Enlarge):
                dx = layer.backward(dx)
                continue
            djoined = total.add(layer.backward(dx))
            dx, dskip = split_channels(djoined, joined.pop(), dx.shape[2:])
            dkept.append(dskip)
        for layer in reversed(list(self.middle)):
            dx = total.add(layer.backward(dx))
        for layer in reversed(list(self.down)):
            dx = total.add(layer.backward(dx + dkept.pop()))  # it went on, and it was kept
        dx = self.conv_in.backward(dx + dkept.pop())
        dembedding = self.act_embedding.backward(total.embedding)
        self.time_embedding.backward(dembedding)
        dcondition = None if self.condition is None else self.condition.backward(dembedding, total.context)
        return dx if dcondition is None else (dx, dcondition)
