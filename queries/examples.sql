-- Questions to ask of any store: a line that starts with "-- ?" is the question, the statement after it the answer.

-- ? Which neurons of the first generation prefer the positions of its commas? (standard deviations above elsewhere)
select
    layer,
    neuron,
    round(avg(activation) filter (where trim(token) = ','), 3) as at_commas,
    round(avg(activation) filter (where trim(token) <> ','), 3) as elsewhere,
    round((at_commas - elsewhere) / stddev(activation), 2) as preference
from activations
join tokens using (generation_id, position)
where generation_id = (select min(generation_id) from generations)
group by layer, neuron
order by preference desc nulls last, layer, neuron
limit 5;

-- ? What did the model look at most when it wrote the first token of each completion?
select
    generation_id,
    wrote.token as wrote,
    read.token as looked_at,
    input_position as at_position,
    round(share, 3) as share
from saliency
join generations using (generation_id)
join tokens as wrote on wrote.generation_id = saliency.generation_id and wrote.position = output_position
join tokens as read on read.generation_id = saliency.generation_id and read.position = input_position
where output_position = n_prompt_tokens
qualify row_number() over (partition by generation_id order by share desc) = 1
order by generation_id
limit 8;

-- ? Where was the model least sure of what comes next, and what did it write?
select
    generation_id,
    position,
    token,
    round(entropy, 2) as entropy,
    round(exp(logprob), 3) as probability,
    rank
from tokens
where is_generated
order by entropy desc
limit 5;
