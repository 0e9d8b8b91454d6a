-- Views and macros over the tables of a store, and what they mean. The tables themselves (runs, generations, tokens, embeddings,
-- gradients, gradient_scores, activation_vectors, hidden_states, layer_predictions, segments, neuron_vectors, neuron_partials) are
-- views of their Parquet files, made from the snapshot before this script runs. So are unindexed_files, the files of
-- activation_vectors of which neuron_vectors has not all layers, indexed_layers, the layers of them that it has, and
-- uncounted_files, those of the files of which neuron_partials has those layers alone: captures make the statistics of the others.

create view unindexed_activation_vectors as
select generation_id, position, layer, activation
from unindexed_files
where not exists (
    select 1
    from indexed_layers
    where indexed_layers.filename = parse_filename(unindexed_files.filename)
        and indexed_layers.layer = unindexed_files.layer
);

comment on view unindexed_activation_vectors is 'the rows of activation_vectors that neuron_vectors has not';

-- Where a run recorded some neurons alone, another macro takes the place of this one.
create macro neuron_numbers(generation_id, activation) as (generate_subscripts(activation, 1) - 1)::integer;
comment on macro neuron_numbers is 'the neuron of each value of a token-major vector, one row a value';

create schema by_token;

create view by_token.activations as
select
    generation_id,
    position,
    layer,
    neuron_numbers(generation_id, activation) as neuron,
    unnest(activation) as activation
from activation_vectors;

comment on view by_token.activations is 'one row a value, read from the token-major vectors: filter by generation_id and layer';

create schema by_neuron;

create view by_neuron.activations as
select
    unnest(generation_id) as generation_id,
    unnest(position) as position,
    layer,
    neuron,
    unnest(activation) as activation
from neuron_vectors
join segments using (segment_id)
union all
select
    generation_id,
    position,
    layer,
    neuron_numbers(generation_id, activation) as neuron,
    unnest(activation) as activation
from unindexed_activation_vectors;

comment on view by_neuron.activations is 'one row a value, read from the neuron-major projection and, for tokens that it has not yet, the token-major vectors: filter by layer and neuron';

-- The plain `activations`; a connection that knows the query puts the path that reads less in its place.
create view activations as
select generation_id, position, layer, neuron, activation
from by_token.activations;

comment on view activations is 'one row for each position, layer and neuron: always complete, whichever projection serves it';
comment on column activations.activation is 'what the FFNN''s output projection receives for that neuron';

-- The bin of a histogram that a value is in: the upper 12 bits of a 32-bit float (sign, exponent, eighth of the octave).
create macro activation_bin(activation) as
    case
        when isnan(activation) then 2044
        when abs(activation) < 1.1754943508222875e-38 then
            case
                when activation < 0 and abs(activation) >= 1.469367938527859e-39 then 2048
                else 0
            end + floor(abs(activation)::double / 1.469367938527859e-39)::integer
        when isinf(activation) then if(activation < 0, 2048, 0) + 2040
        else
            if(activation < 0, 2048, 0)
            + (floor(log2(abs(activation)::double))::integer + 127) * 8
            + floor((abs(activation)::double / pow(2, floor(log2(abs(activation)::double))) - 1) * 8)::integer
    end;
comment on macro activation_bin is 'the histogram bin of an activation: the upper 12 bits of a 32-bit float';

create macro bin_magnitude(bin) as
    case
        when bin < 8 then bin * 1.469367938527859e-39
        else (1 + (bin % 8) / 8) * pow(2, bin // 8 - 127)
    end;
comment on macro bin_magnitude is 'the least magnitude of a histogram bin (0 to 2047, sign left out)';

create macro histogram_of(bins, counts) as
    list_transform(
        list_sort(
            list_transform(
                list_distinct(bins),
                lambda bin: {
                    'lower': if(bin < 2048, bin_magnitude(bin), -bin_magnitude(bin - 2047)),
                    'upper': if(bin < 2048, bin_magnitude(bin + 1), -bin_magnitude(bin - 2048)),
                    'bin': bin
                }
            )
        ),
        lambda edge: {
            'lower': edge.lower,
            'upper': edge.upper,
            'n': list_sum(list_transform(list_zip(bins, counts), lambda pair: if(pair[1] = edge.bin, pair[2], 0)))::bigint
        }
    );
comment on macro histogram_of is 'bins and their counts, the same bin perhaps several times, as a list of (lower, upper, n), ascending';

create macro histogram_quantile(histogram, q) as (
    select (lower + upper) / 2
    from (
        select
            lower,
            upper,
            sum(n) over (order by lower) as up_to
        from (select unnest(histogram, recursive := true))
    )
    where up_to >= q * list_sum(list_transform(histogram, lambda bin: bin.n))
    order by lower
    limit 1
);
comment on macro histogram_quantile is 'a quantile (0 to 1) from a histogram of neuron_stats: the middle of its bin, off by at most 1/16 of the value';

-- What there are no statistics of, one row a value, with what statistics go by.
create view uncounted_activations as
select generation_id, position, layer, neuron, activation, run_id, is_special
from (
    select
        generation_id,
        position,
        layer,
        neuron_numbers(generation_id, activation) as neuron,
        unnest(activation) as activation
    from uncounted_files
    where not exists (
        select 1
        from indexed_layers
        where indexed_layers.filename = parse_filename(uncounted_files.filename)
            and indexed_layers.layer = uncounted_files.layer
    )
)
join tokens using (generation_id, position)
join generations using (generation_id);
comment on view uncounted_activations is 'activations that neuron_partials has no statistics of, one row a value, with their run and whether the token is special';
comment on column uncounted_activations.is_special is 'whether the token is special';

-- Statistics that add up, of everything: those that are kept, and those of what has none yet.
create view all_neuron_partials as
select layer, neuron, run_id, is_special, n, mean, m2, min, max, n_active, bins, bin_counts
from neuron_partials
union all
select
    layer,
    neuron,
    run_id,
    is_special,
    count(*) as n,
    avg(activation::double) as mean,
    var_pop(activation::double) * count(*) as m2,
    min(activation) as min,
    max(activation) as max,
    count_if(activation > 0)::bigint as n_active,
    [activation_bin(activation)] as bins,
    [count(*)] as bin_counts
from uncounted_activations
group by layer, neuron, run_id, is_special, activation_bin(activation);
comment on view all_neuron_partials is 'statistics as neuron_partials has them, but for the examples, and the same of what it has none of, computed as it is asked';

create macro neuron_stats_by(special) as table
select
    run_id,
    layer,
    neuron,
    sum(n)::bigint as n,
    any_value(whole_mean) as mean,
    sqrt(sum(m2 + n * (mean - whole_mean) ** 2) / sum(n)) as std,
    min(min) as min,
    max(max) as max,
    sum(n_active) / sum(n) as density,
    histogram_of(flatten(list(bins)), flatten(list(bin_counts))) as histogram
from (
    select
        *,
        sum(n * mean) over (partition by run_id, layer, neuron) / sum(n) over (partition by run_id, layer, neuron) as whole_mean
    from all_neuron_partials
    where special or not is_special
)
group by run_id, layer, neuron;
comment on macro table neuron_stats_by is 'neuron_stats with special tokens (true) or without them (false)';

create view neuron_stats as
select run_id, layer, neuron, n, mean, std, min, max, density, histogram
from neuron_stats_by(false);

comment on view neuron_stats is 'statistics of each neuron over all tokens of a run but the special ones';
comment on column neuron_stats.n is 'tokens';
comment on column neuron_stats.mean is 'mean activation';
comment on column neuron_stats.std is 'standard deviation (of the population)';
comment on column neuron_stats.min is 'least activation';
comment on column neuron_stats.max is 'greatest activation';
comment on column neuron_stats.density is 'share of tokens whose activation is above 0';
comment on column neuron_stats.histogram is 'bins that are not empty, ascending: lower, upper, n; edges are the same for all neurons, eight bins an octave';

create macro neuron_examples_by(special) as table
select run_id, layer, neuron, sign, rank, generation_id, position, activation
from (
    select
        *,
        row_number() over (
            partition by run_id, layer, neuron, sign
            order by abs(activation) desc, generation_id, position
        )::integer as rank
    from (
        select
            run_id,
            layer,
            neuron,
            'positive' as sign,
            unnest(positive_generation_id) as generation_id,
            unnest(positive_position) as position,
            unnest(positive_activation) as activation
        from neuron_partials
        where special or not is_special
        union all
        select
            run_id,
            layer,
            neuron,
            'negative' as sign,
            unnest(negative_generation_id) as generation_id,
            unnest(negative_position) as position,
            unnest(negative_activation) as activation
        from neuron_partials
        where special or not is_special
        union all
        select
            run_id,
            layer,
            neuron,
            if(activation > 0, 'positive', 'negative') as sign,
            generation_id,
            position,
            activation
        from uncounted_activations
        where (special or not is_special) and activation != 0 and not isnan(activation)
    )
)
where rank <= 20;
comment on macro table neuron_examples_by is 'neuron_examples with special tokens (true) or without them (false)';

create view neuron_examples as
select run_id, layer, neuron, sign, rank, generation_id, position, activation
from neuron_examples_by(false);

comment on view neuron_examples is 'the 20 strongest tokens of each sign of each neuron in a run, special tokens left out';
comment on column neuron_examples.activation is 'what the FFNN''s output projection receives for the neuron at that token';
comment on column neuron_examples.sign is 'positive (the greatest above 0) or negative (the least below 0)';
comment on column neuron_examples.rank is '1 is the strongest; of equal ones the earlier token';

-- Scores of every (output position, input position), from its gradient, or of runs that kept scores alone, those; sums are
-- taken in double precision.
--   grad_x_input     the L2 norm of gradient times embedding, element by element
--   grad_norm        the L2 norm of the gradient
--   grad_dot_input   the signed sum of gradient times embedding
--   grad_x_input_l1  the sum of absolute values of gradient times embedding
-- A share is the score over the sum of the row's absolute scores; 0 where all of them are 0.
create macro saliency_by(method) as table
with scores as (
    select
        gradients.generation_id,
        output_position,
        input_position,
        sqrt(list_inner_product(
            list_transform(gradient, lambda g: g::double * g),
            list_transform(embedding, lambda e: e::double * e)
        )) as grad_x_input,
        sqrt(list_inner_product(gradient::double[], gradient::double[])) as grad_norm,
        list_inner_product(gradient::double[], embedding::double[]) as grad_dot_input,
        list_inner_product(
            list_transform(gradient, lambda g: abs(g::double)),
            list_transform(embedding, lambda e: abs(e::double))
        ) as grad_x_input_l1
    from gradients
    join embeddings
        on embeddings.generation_id = gradients.generation_id
        and embeddings.position = input_position
    union all
    select generation_id, output_position, input_position, grad_x_input, grad_norm, grad_dot_input, grad_x_input_l1
    from gradient_scores
),
scored as (
    select
        generation_id,
        output_position,
        input_position,
        case method
            when 'grad_x_input' then grad_x_input
            when 'grad_norm' then grad_norm
            when 'grad_dot_input' then grad_dot_input
            when 'grad_x_input_l1' then grad_x_input_l1
            else error('no saliency method ' || method || '; choose grad_x_input, grad_norm, grad_dot_input or grad_x_input_l1')
        end as score
    from scores
)
select
    generation_id,
    output_position,
    input_position,
    score,
    coalesce(
        score / nullif(sum(abs(score)) over (partition by generation_id, output_position), 0),
        0
    ) as share
from scored;
comment on macro table saliency_by is 'saliency by another method: grad_x_input, grad_norm, grad_dot_input or grad_x_input_l1';

create view saliency as
select generation_id, output_position, input_position, score, share
from saliency_by('grad_x_input');

comment on view saliency is 'how much each earlier token counts for each generated one: gradient times input, L2 norm';
comment on column saliency.score is 'L2 norm of gradient times embedding, in logits (nats, where the gradient_target is logprob)';
comment on column saliency.share is 'the score as a share of the sum over the output position''s row';

-- The newest label of each thing, unless that took it away.
create view labels as
select
    arg_max(label, label_id) as label,
    factorization_id,
    factor,
    run_id,
    layer,
    neuron,
    max(created_at) as created_at
from label_changes
group by factorization_id, factor, run_id, layer, neuron
having arg_max(label, label_id) != '';

comment on view labels is 'people''s names for factors and neurons: the newest of each';
comment on column labels.label is 'the label';
comment on column labels.factorization_id is 'of a factor: the saved factorization';
comment on column labels.factor is 'of a factor: its 0-based index in the factorization';
comment on column labels.run_id is 'of a neuron: the run, or NULL for all runs';
comment on column labels.layer is 'of a neuron: its layer';
comment on column labels.neuron is 'of a neuron: its 0-based index in the layer';
comment on column labels.created_at is 'when it was given, UTC';
