"""The page that each store carries: what it is, and how to read it without actlake."""

TEXT = """\
# A store of actlake

Parquet files of what happened inside a language model while it wrote, and a log that says which of them count.

- `_log/` has a JSON document for each commit, in order: the files that it adds, with table, rows, bytes, SHA-256 and key
  ranges, and the paths that it removes. A file counts if a commit added it and none removed it since; any other file was
  left by a crash or by an older state, and is to be passed over.
- `runs/`, `generations/`, `tokens/`, `embeddings/`, `gradients/` (or in place of them `gradient_scores/`),
  `activation_vectors/`, `hidden_states/` and `layer_predictions/` have the tables' files, as far as runs recorded them. Vectors
  are lists of 32-bit floats, rounded to the run's precision. `segments/`, `neuron_vectors/` and `neuron_partials/` have the same
  activations neuron by neuron, as far as they are indexed.
  `factorizations/`, `factor_tokens/` and `factor_neurons/` have analyses that were saved, `label_changes/` people's names for
  factors and neurons.

With actlake: `actlake info .`, `actlake sql . "select …"`, `actlake serve .`;
`actlake views .` prints views for any DuckDB.

With plain DuckDB, in this folder (another table: another name in the third line):

```sql
with commits as (select unnest(add) as file, version from read_json('_log/*.json', union_by_name = true)),
removed as (select unnest(remove) as path from read_json('_log/*.json', union_by_name = true))
select list(file.path) from commits where file.table = 'tokens' and file.path not in (select path from removed);
```

gives the files for `read_parquet([...])`; Polars, pandas and Spark read the same list.
"""
