"""share_common: compute equal subexpressions once.

Every residual block applies SiLU to the same embedding; after sharing, the label branch has a single narrow waist,
which `tabulate_labels` needs when a full table would be too large.
"""

from __future__ import annotations

from torch import fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass

from cmexport.graph.fxtools import Editor
from cmexport.graph.rewriting import Changes, Rewrite


def _apply(editor: Editor) -> Changes:
    before = sum(1 for _ in editor.graph.nodes)
    result = CSEPass()(editor.module)
    assert result is not None
    assert isinstance(result.graph_module, fx.GraphModule)
    if result.modified:
        # CSEPass builds a new graph; the codegen carries the input names.
        codegen = editor.graph._codegen
        editor.module.graph = result.graph_module.graph
        editor.graph.set_codegen(codegen)
    return Changes(applied=before - sum(1 for _ in editor.graph.nodes))


REWRITE = Rewrite("share_common", "compute equal subexpressions once", _apply)
