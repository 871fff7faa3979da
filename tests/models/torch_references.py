"""PANNs' CNNs, EfficientAT's MobileNetV3 and AST in PyTorch: spectrograms to logits.

They are written after the papers, and their modules have the names of the authors' state dicts.
Dropout is left out.
"""

import torch
from torch import nn
from torch.nn import functional as F


class ConvBlock(nn.Module):
    def __init__(self, channels_in, channels_out, size, count, pool):
        super().__init__()
        self.count, self.pool = count, pool
        for i in range(1, count + 1):
            channels = channels_in if i == 1 else channels_out
            conv = nn.Conv2d(channels, channels_out, size, padding=size // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(channels_out))

    def forward(self, x):
        for i in range(1, self.count + 1):
            x = torch.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return F.avg_pool2d(x, 2) if self.pool else x


class Cnn(nn.Module):
    """float[batch, frames, 64] -> logits."""

    def __init__(self, name, features, num_classes):
        super().__init__()
        size, count = (5, 1) if name == "cnn6" else (3, 2)
        self.bn0 = nn.BatchNorm1d(64)
        self.names = [f"conv_block{i + 1}" for i in range(len(features))]
        for block, before, after in zip(self.names, (1, *features), features, strict=False):
            pool = name != "cnn14" or block != self.names[-1]
            setattr(self, block, ConvBlock(before, after, size, count, pool))
        self.fc1 = nn.Linear(features[-1], features[-1])
        self.fc_audioset = nn.Linear(features[-1], num_classes)

    def embed(self, x):
        # The authors transpose twice. PyTorch 2.13 computes wrong gradients for such strides.
        x = self.bn0(x.flatten(0, 1)).unflatten(0, x.shape[:2])[:, None]
        for name in self.names:
            x = getattr(self, name)(x)
        x = x.mean(dim=3)
        return torch.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))

    def forward(self, x):
        return self.fc_audioset(self.embed(x))


# kernel, expanded, out, squeeze, activation, stride: Table 1 of "Searching for MobileNetV3".
TABLE_1 = """
3 16 16 - RE 1
3 64 24 - RE 2
3 72 24 - RE 1
5 72 40 SE RE 2
5 120 40 SE RE 1
5 120 40 SE RE 1
3 240 80 - HS 2
3 200 80 - HS 1
3 184 80 - HS 1
3 184 80 - HS 1
3 480 112 SE HS 1
3 672 112 SE HS 1
5 672 160 SE HS 2
5 960 160 SE HS 1
5 960 160 SE HS 1
"""


def multiple_of_8(number):
    nearest = max(8, int(number / 8 + 0.5) * 8)
    return nearest + 8 if nearest < 0.9 * number else nearest


def conv_norm(before, after, size, stride, activation, groups=1):
    layers = [
        nn.Conv2d(before, after, size, stride, (size - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=0.001, momentum=0.01),
    ]
    return nn.Sequential(*layers, *{"HS": [nn.Hardswish()], "RE": [nn.ReLU()], "": []}[activation])


class Squeeze(nn.Module):
    def __init__(self, channels):
        super().__init__()
        gate = nn.Module()
        gate.fc1 = nn.Linear(channels, multiple_of_8(channels // 4))
        gate.fc2 = nn.Linear(gate.fc1.out_features, channels)
        self.conc_se_layers = nn.ModuleList([gate])

    def forward(self, x):
        gate = self.conc_se_layers[0]
        scale = torch.sigmoid(gate.fc2(torch.relu(gate.fc1(x.mean(dim=(2, 3))))))
        return x * scale[:, :, None, None]


class Block(nn.Module):
    def __init__(self, before, size, middle, after, squeezes, activation, stride):
        super().__init__()
        layers = [conv_norm(before, middle, 1, 1, activation)] if middle != before else []
        layers.append(conv_norm(middle, middle, size, stride, activation, groups=middle))
        layers += [Squeeze(middle)] if squeezes else []
        self.block = nn.Sequential(*layers, conv_norm(middle, after, 1, 1, ""))
        self.adds = stride == 1 and before == after

    def forward(self, x):
        return x + self.block(x) if self.adds else self.block(x)


class MobileNet(nn.Module):
    """float[batch, frames, 128] -> logits."""

    def __init__(self, width, num_classes):
        super().__init__()
        channels = multiple_of_8(16 * width)
        layers = [conv_norm(1, channels, 3, 2, "HS")]
        for line in TABLE_1.split("\n")[1:-1]:
            size, middle, after, squeezes, activation, stride = line.split()
            middle, after = (multiple_of_8(int(each) * width) for each in (middle, after))
            block = channels, int(size), middle, after, squeezes == "SE", activation, int(stride)
            layers.append(Block(*block))
            channels = after
        self.features = nn.Sequential(*layers, conv_norm(channels, 6 * channels, 1, 1, "HS"))
        hidden = multiple_of_8(1280 * width)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6 * channels, hidden),
            nn.Hardswish(),
            nn.Identity(),
            nn.Linear(hidden, num_classes),
        )

    def embed(self, x):
        return self.features(x.transpose(1, 2)[:, None]).mean(dim=(2, 3))

    def forward(self, x):
        return self.classifier(self.features(x.transpose(1, 2)[:, None]))


class AstBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        parts = self.attn.qkv(self.norm1(x)).chunk(3, dim=2)
        parts = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts]
        attended = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = x + self.attn.proj(attended)
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Ast(nn.Module):
    """float[batch, frames, 128] -> logits."""

    def __init__(self, width, heads, layers, num_frames, num_classes):
        super().__init__()
        self.v = nn.Module()
        self.v.patch_embed = nn.Module()
        self.v.patch_embed.proj = nn.Conv2d(1, width, 16, stride=10)
        self.v.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.v.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        num_patches = 12 * (1 + (num_frames - 16) // 10)
        self.v.pos_embed = nn.Parameter(torch.zeros(1, 2 + num_patches, width))
        self.v.blocks = nn.ModuleList([AstBlock(width, heads) for _ in range(layers)])
        self.v.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def embed(self, x):
        patches = self.v.patch_embed.proj(x[:, None].transpose(2, 3)).flatten(2).transpose(1, 2)
        tokens = [each.expand(len(x), -1, -1) for each in (self.v.cls_token, self.v.dist_token)]
        x = torch.cat([*tokens, patches], dim=1) + self.v.pos_embed
        for block in self.v.blocks:
            x = block(x)
        x = self.v.norm(x)
        return (x[:, 0] + x[:, 1]) / 2

    def forward(self, x):
        return self.mlp_head(self.embed(x))
