-- More questions, which the app's SQL page offers beside those of examples.sql.

-- ? How often does the model write the token that it holds likeliest? (ranks of generated tokens)
select least(rank, 10) as rank_to_10, count(*) as n_tokens
from tokens
where is_generated
group by rank_to_10
order by rank_to_10;

-- ? How does the entropy of the next token change with its position?
select position, round(avg(entropy), 3) as mean_entropy, count(*) as n_tokens
from tokens
where entropy is not null
group by position
order by position;

-- ? How much do outputs look at inputs, by how far these lie before them?
select
    output_position - input_position as distance,
    round(avg(share), 4) as mean_share,
    count(*) as n_pairs
from saliency
group by distance
order by distance
limit 60;

-- ? Which neurons reach the highest values in the corpus, and on which token?
select layer, neuron, round(activation, 3) as activation, token, generation_id, position
from neuron_examples
join tokens using (generation_id, position)
where sign = 1 and neuron_examples.rank = 1
order by activation desc
limit 20;

-- ? What do prompts carry beside their text?
select key, value ->> '$' as value, count(*) as n_generations
from (
    select unnest(map_entries(cast(metadata::json as map(varchar, json))), recursive := true)
    from generations
)
group by all
order by n_generations desc, key, value
limit 50;

-- ? What is in the store? (every table and view, and what it means)
select table_name, comment
from (select table_name, comment from duckdb_tables() union all select view_name, comment from duckdb_views() where not internal)
where comment is not null
order by table_name;
