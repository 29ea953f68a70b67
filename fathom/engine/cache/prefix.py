"""The prefix cache: blocks of earlier sequences, found again by the very tokens they were made of.

A tree per owner. A node is one full block of tokens after its parent's; it owns the block in the pool, and counts the running sequences
that use it. Children are found by the token ids themselves, so nothing depends on a hash in memory; digests of the same chain are the
keys of the second tier (store.py), whose records repeat the ids and are compared.

Blocks aren't all that a sequence needs to go on: its window rows and CSA's tail are the *mark* at the block's end (marks.py). Which
ends keep one is the policy (SPEC section 6, `every`):

    block size     every block's end: a hit costs nothing, marks take several times the blocks' memory
    p              every p tokens, at a prompt's last block, where prompts have parted, and at a sequence's newest: the rest is computed
                   again from the mark
    0              none: the last layers·(W - 1) tokens before the hit are computed again, reading the cached entries instead of making
                   them. After so many tokens every layer's window has forgotten that it began with nothing.

The last way is open under every policy, and taken where it is the shorter one. Whichever it is, the result is that of a cold run.

Nodes without users stay until the pool needs their blocks, least recently used first. Marks have a budget of bytes and go the same way,
but first those within a chain: a conversation is taken up where it ended, or where others have parted from it. A sequence gives its
path back deepest first, so a parent is never older than its child and the oldest node is always a leaf.
"""
from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .marks import Packing
from .pool import Pool
from .store import BlockStore


class Node:
    """One cached block: `position` is where it ends. `mark` is the state there, if it is kept; `rolling`: only until a later one comes.
    An owner's root is a node without a parent, a block or tokens."""

    __slots__ = ("block", "children", "digest", "ids", "mark", "owner", "parent", "position", "rolling", "users")

    def __init__(self, owner: str, parent: Node | None, ids: tuple[int, ...], block: int, digest: bytes) -> None:
        self.owner, self.parent, self.ids, self.block, self.digest = owner, parent, ids, block, digest
        self.position: int = parent.position + len(ids) if parent else 0
        self.children: dict[tuple[int, ...], Node] = {}
        self.users = 0
        self.mark: Tensor | None = None
        self.rolling = False


@dataclass(frozen=True)
class Hit:
    """What a new sequence can begin with.

    Attributes:
        path: nodes from the first block on, held by the finder.  known: where they end.
        start: the first token to compute.  mark: the state there; None where windows begin empty (at 0, or layers·(W - 1) tokens early).
    """

    path: list[Node]
    known: int
    start: int
    mark: Tensor | None


class PrefixCache:
    """Cached prefixes of one State.

    Args:
        pool: of blocks; the cache takes none for itself, it keeps what sequences hand over.
        rebuild: tokens after which windows and tails are right again, layers·(W - 1).
        every: see above; a multiple of the block size, or 0.  mark_bytes: budget of the marks.
        store: a second tier.  namespace: what its records hold for: model, precision, kernels.
    """

    def __init__(self, pool: Pool, packing: Packing, *, block_size: int, rebuild: int, every: int, mark_bytes: int, store: BlockStore | None = None,
                 namespace: str = "") -> None:
        self.pool, self.packing, self.block_size, self.rebuild, self.every, self.mark_bytes = pool, packing, block_size, rebuild, every, mark_bytes
        self.store, self.namespace = store, namespace
        self.released = 0
        """Counts what became free or idle: whoever found too few blocks needn't look again before it changes."""
        self._roots: dict[str, Node] = {}
        self._idle: OrderedDict[Node, None] = OrderedDict()  # without users, least recently used first
        self._marks: tuple[OrderedDict[Node, None], OrderedDict[Node, None]] = OrderedDict(), OrderedDict()
        """Nodes with marks, least recently used first: those within a chain, which go before those where chains end or part."""
        self.bytes_of_marks = 0

    @property
    def available(self) -> int:
        """Blocks that `take` can give."""
        return self.pool.free + len(self._idle)

    @property
    def idle(self) -> int:
        """Cached blocks that no sequence is using."""
        return len(self._idle)

    def take(self) -> int | None:
        """A block for a sequence's own use: a free one, else the least recently used cached one."""
        if not self.pool.free and self._idle:
            self._remove(next(iter(self._idle)))
        return self.pool.take()

    def give(self, block: int) -> None:
        """Takes back a sequence's own block."""
        self.pool.give(block)
        self.released += 1

    def keeps(self, position: int) -> bool:
        """Whether the policy keeps the mark at this block's end for as long as there is room."""
        return bool(self.every) and position % self.every == 0

    def find(self, owner: str, ids: Seq[int], blocks: int, path: list[Node] | None = None) -> Hit:
        """The longest cached prefix of `ids`, of at most so many blocks, and the least that must be computed again.

        Args:
            path: what an earlier call for the same sequence found, from which the search goes on.
        """
        path, size = list(path or ()), self.block_size
        node = path[-1] if path else self._root(owner)
        while len(path) < blocks:
            key = tuple(ids[len(path) * size : (len(path) + 1) * size])
            child = node.children.get(key) or self._load(node, key)
            if child is None:
                break
            self._use(child)
            path.append(child)
            node = child
        known = len(path) * size
        early = max(0, known - self.rebuild)
        for node in reversed(path):
            if node.position <= early:
                break
            mark = self._mark(node)
            if mark is not None:
                return Hit(path, known, node.position, mark)
        return Hit(path, known, early, None)

    def extend(self, owner: str, path: list[Node], ids: tuple[int, ...], block: int, mark: Tensor | None, *, rolling: bool) -> int:
        """Hands over a full block of tokens that follow `path`, which grows by its node.

        Args:
            mark: the state at its end, if there is one.  rolling: keep it only until the sequence has a later one.

        Returns:
            The block to use from here on: the same, or another that is cached with the same tokens; `block` is then free again.
        """
        parent = path[-1] if path else self._root(owner)
        node = parent.children.get(ids)
        if node is None:
            node = self._insert(parent, ids, block)
            if self.store is not None and node.digest not in self.store:
                self._put(node, None if rolling else mark)
        else:
            self.give(block)
        self._use(node)
        if mark is not None:
            self._keep(node, mark, rolling=rolling)
            if parent.rolling:
                self._drop_mark(parent)
        path.append(node)
        return node.block

    def add_mark(self, node: Node, mark: Tensor, *, rolling: bool) -> None:
        """The state at the end of a node in use, which had none when it was handed over."""
        missing = node.mark is None
        self._keep(node, mark, rolling=rolling)
        if missing and not rolling and self.store is not None:
            self._put(node, mark)

    def release(self, path: list[Node]) -> None:
        """Gives a path back; its blocks stay until others need them."""
        if path and path[-1].rolling and path[-1].mark is not None:
            path[-1].rolling = False
            if self.store is not None:
                self._put(path[-1], path[-1].mark)
        for node in reversed(path):
            node.users -= 1
            if not node.users:
                self._idle[node] = None
                self.released += 1
        path.clear()

    def nodes(self) -> list[Node]:
        """All nodes, parents first."""
        found = list(self._roots.values())
        for node in found:
            found.extend(node.children.values())
        return [node for node in found if node.parent]

    # --- nodes ---

    def _root(self, owner: str) -> Node:
        if owner in self._roots:
            return self._roots[owner]
        return Node(owner, None, (), -1, _digest(_digest(b"", self.namespace.encode()), owner.encode("utf-8", "surrogatepass")))

    def _insert(self, parent: Node, ids: tuple[int, ...], block: int) -> Node:
        node = Node(parent.owner, parent, ids, block, _chain(parent, ids))
        parent.children[ids] = node
        self._file(parent)
        if parent.parent is None:
            self._roots[parent.owner] = parent
        return node

    def _use(self, node: Node) -> None:
        node.users += 1
        self._idle.pop(node, None)

    def _remove(self, node: Node) -> None:
        assert node.parent is not None and not node.children and not node.users, "only leaves that nobody uses go"
        del self._idle[node]
        del node.parent.children[node.ids]
        self._file(node.parent)
        if node.parent.parent is None and not node.parent.children:
            del self._roots[node.owner]
        self._drop_mark(node)
        self.give(node.block)

    # --- marks ---

    def _mark(self, node: Node) -> Tensor | None:
        """A node's mark, used: in memory, or from the second tier, where reading a record is quicker than computing its tokens."""
        mark = node.mark
        if mark is None and self.every and self.store is not None and node.digest in self.store:
            record = self._get(node.digest, node.parent, node.ids)
            if record and "mark" in record:
                mark = record["mark"].clone()  # a record's tensors share one buffer, which would stay with it
                self._keep(node, mark)
        self._file(node)
        return mark

    def _keep(self, node: Node, mark: Tensor, *, rolling: bool = False) -> None:
        if node.mark is not None:
            node.rolling &= rolling
            return
        node.mark, node.rolling = mark, rolling
        self.bytes_of_marks += mark.nbytes
        self._file(node)
        while self.bytes_of_marks > self.mark_bytes:
            self._drop_mark(next(iter(self._marks[0] or self._marks[1])))

    def _drop_mark(self, node: Node) -> None:
        if node.mark is not None:
            self.bytes_of_marks -= node.mark.nbytes
        node.mark, node.rolling = None, False
        for marks in self._marks:
            marks.pop(node, None)

    def _file(self, node: Node) -> None:
        """Makes a node's mark, if it has one, the most recently used of those it belongs to."""
        if node.mark is not None:
            for marks in self._marks:
                marks.pop(node, None)
            self._marks[len(node.children) != 1][node] = None

    # --- the second tier ---

    def _put(self, node: Node, mark: Tensor | None) -> None:
        assert self.store is not None and node.parent is not None
        tensors = {"block": self.packing.read_block(node.block)} | ({"mark": mark} if mark is not None else {})
        self.store.put(node.digest, {"parent": node.parent.digest.hex(), "ids": list(node.ids)}, tensors)

    def _get(self, digest: bytes, parent: Node | None, ids: tuple[int, ...]) -> dict[str, Tensor] | None:
        """Tensors of a record that is of these ids after this parent; any other is removed."""
        assert self.store is not None and parent is not None
        found = self.store.get(digest)
        if found is None:
            return None
        header, tensors = found
        if header.get("parent") != parent.digest.hex() or header.get("ids") != list(ids) or "block" not in tensors \
                or ("mark" in tensors and not self.packing.is_mark(tensors["mark"])):
            self.store.discard(digest)
            return None
        return tensors

    def _load(self, parent: Node, ids: tuple[int, ...]) -> Node | None:
        """A child from the second tier, written into a block of the pool."""
        if self.store is None or len(ids) < self.block_size:
            return None
        digest = _chain(parent, ids)
        if digest not in self.store:
            return None
        record = self._get(digest, parent, ids)
        block = self.take() if record else None
        if record is None or block is None:
            return None
        if not self.packing.write_block(block, record["block"]):
            self.store.discard(digest)
            self.pool.give(block)
            return None
        node = self._insert(parent, ids, block)
        if "mark" in record:
            self._keep(node, record["mark"].clone())
        return node


def _chain(parent: Node, ids: tuple[int, ...]) -> bytes:
    return _digest(parent.digest, np.array(ids, dtype="<i8").tobytes())


def _digest(parent: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, key=parent, digest_size=32).digest()
