"""fwrl's packages ``agents`` and ``envs``, whose names are short enough to be taken by others.

A script's folder comes before all that is installed, and two distributions that both have a
package ``agents`` overwrite each other's files.
"""

from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

NEIGHBOURS = ("agents", "envs")
HOME = Path(__file__).resolve().parents[2]


class NameTakenError(ImportError):
    """A package of somebody else under the name of one of ours. The message is one line."""


def check_neighbours() -> None:
    """Check that ``agents`` and ``envs`` are those that came with fwrl.

    Raises:
        NameTakenError: If another module has the name.
    """
    for name in NEIGHBOURS:
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        ours = HOME / name / "__init__.py"
        if found != ours:
            raise NameTakenError(
                f"{found or 'nothing'} is found in place of fwrl's package {name!r}; "
                "give it another name, or start from another folder"
            )
        # the first line of the docstring says whose it is
        if "fwrl" not in ours.read_text(encoding="utf-8").partition("\n")[0]:
            owners = {*packages_distributions().get(name, []), "another package"} - {"fwrl"}
            raise NameTakenError(
                f"{ours} was overwritten by {min(owners, key=len)}, which has a package {name!r} "
                "too; install fwrl again, in a virtual environment of its own"
            )
