"""For the reference: a package shows what its own files define, once, and not again what it passes on."""

import griffe


class OwnMembers(griffe.Extension):
    """Forget imported names once everything is loaded."""

    def on_package(self, *, pkg, loader, **_):
        """Walk through all modules."""
        for module in self._modules(pkg):
            for name in [name for name, member in module.members.items() if member.is_alias]:
                del module.members[name]

    def _modules(self, module):
        yield module
        for member in list(module.members.values()):
            if not member.is_alias and member.is_module:
                yield from self._modules(member)
