"""A result that an MCP client shows as it is: text, an image, a sound, or the bytes of a file."""

from __future__ import annotations

import base64

import msgspec


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text."""

    text: str


class ImageBlock(
    msgspec.Struct, frozen=True, tag_field="type", tag="image", rename="camel", forbid_unknown_fields=True
):
    """An image in base64."""

    data: str
    mime_type: str


class AudioBlock(
    msgspec.Struct, frozen=True, tag_field="type", tag="audio", rename="camel", forbid_unknown_fields=True
):
    """A sound in base64."""

    data: str
    mime_type: str


class FileBytes(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The bytes of a file in base64, and its address."""

    uri: str
    mime_type: str
    blob: str


class ResourceBlock(msgspec.Struct, frozen=True, tag_field="type", tag="resource", forbid_unknown_fields=True):
    """A file that is neither text nor image nor sound."""

    resource: FileBytes


Block = TextBlock | ImageBlock | AudioBlock | ResourceBlock


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The blocks of a result.  A tool with this result type returns nothing else."""

    content: list[Block]

    @classmethod
    def of_file(cls, data: bytes, mime_type: str, uri: str) -> Content:
        """Return the bytes of a file as an image, a sound or a resource, by its MIME type."""
        encoded = base64.b64encode(data).decode()
        if mime_type.startswith("image/"):
            return cls([ImageBlock(encoded, mime_type)])
        if mime_type.startswith("audio/"):
            return cls([AudioBlock(encoded, mime_type)])
        return cls([ResourceBlock(FileBytes(uri, mime_type, encoded))])
