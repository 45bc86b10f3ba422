"""Which tests are long: in `make test-all`, and not in `make test`.

They run whole pipelines, every kill point, several processes, and what `make test` runs for one family or objective for
all others. `conftest.py` gives them the marker `long`, and `longest` to those that only `.ci/long` runs.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

FAMILIES = (
    "sdxl",
    "flux",
    "meissonic",
    "tiny_sdxl_pipeline",
    "tiny_flux_pipeline",
    "tiny_meissonic_pipeline",
)
"""`make test` runs a test of every family with Stable Diffusion, Stable Diffusion 3 and aMUSEd: one of each kind."""
TESTS = (
    "tests/benchmarks/test_dataset_memory.py::test_reading_images_*",
    "tests/benchmarks/test_objectives.py::test_hyperparameters_*",
    "tests/benchmarks/test_reward_parent.py::test_both_ways_*",
    "tests/benchmarks/test_reward_speed.py::test_our_side_*",
    "tests/demo/test_masked_weights.py::test_rewards_that_never_saw_*",
    "tests/demo/test_masked_weights.py::test_samples_show_*",
    "tests/demo_training/test_train.py::test_an_interrupted_training_*",
    "tests/demo_training/test_train.py::test_everything_loads_*",
    "tests/evaluation/sweep/test_sweep.py::test_a_new_strength_*",
    "tests/executors/test_ranks.py::test_processes_that_are_killed_*",
    "tests/executors/test_ranks_stages.py::*",
    "tests/faults/test_fuzz.py::*",
    "tests/faults/test_kills.py::*",
    "tests/fine_tune/distributed/test_launch.py::test_the_stage_says_*",
    "tests/fine_tune/distributed/test_parallel.py::*",
    "tests/fine_tune/distributed/test_start.py::test_a_second_*",
    "tests/fine_tune/distributed/test_start.py::test_an_error_*",
    "tests/fine_tune/distributed/test_start.py::test_one_that_dies_*",
    "tests/fine_tune/distributed/test_start.py::test_tasks_*",
    "tests/fine_tune/distributed/test_start.py::test_they_*",
    "tests/fine_tune/noise_levels/test_measure.py::test_a_kill_*",
    "tests/fine_tune/noise_levels/test_measure.py::test_a_training_takes_*",
    "tests/fine_tune/noise_levels/test_measure.py::test_a_training_takes_*[[]lora]",
    "tests/fine_tune/noise_levels/test_measure.py::test_a_training_that_goes_on_*",
    "tests/fine_tune/noise_levels/test_measure.py::test_where_nothing_*",
    "tests/fine_tune/reward_backprop/test_footprint.py::*",
    "tests/fine_tune/reward_backprop/test_footprint.py::*[[]draft]",
    "tests/fine_tune/reward_backprop/test_footprint.py::*[[]re*",
    "tests/fine_tune/reward_backprop/test_gradient.py::test_a_gradient_*[[][!a]*",
    "tests/fine_tune/reward_backprop/test_gradient.py::test_parts_*[[][!l]*",
    "tests/fine_tune/reward_backprop/test_gradient.py::test_the_formulas_*[[][!o]*",
    "tests/fine_tune/reward_backprop/test_rollout.py::test_flux_*",
    "tests/fine_tune/reward_backprop/test_rollout.py::test_sdxl_*",
    "tests/fine_tune/reward_backprop/test_rollout.py::test_stable_diffusion[[]epsilon-*",
    "tests/fine_tune/reward_backprop/test_rollout.py::test_stable_diffusion[[]v_prediction-1*",
    "tests/fine_tune/reward_backprop/test_stage.py::test_a_training_*[[]*-full]",
    "tests/fine_tune/reward_backprop/test_stage.py::test_a_training_*[[][!a]*",
    "tests/fine_tune/reward_backprop/test_stage.py::test_another_reward_*",
    "tests/fine_tune/reward_backprop/test_stage.py::test_it_trains_*[[]draft_lv]",
    "tests/fine_tune/reward_backprop/test_stage.py::test_the_target_of_several_*",
    "tests/fine_tune/test_every_objective.py::test_another_strength_*",
    "tests/fine_tune/test_every_objective.py::test_guidance_trains_its_modules[[]*-full]",
    "tests/fine_tune/test_every_objective.py::test_it_trains_and_its_result_loads[[][!ts]*",
    "tests/fine_tune/test_every_objective.py::test_merged_guidance_*",
    "tests/fine_tune/test_footprint.py::test_an_update_*[[][!t]*",
    "tests/fine_tune/test_footprint.py::test_other_families_*",
    "tests/fine_tune/test_gpu.py::*",
    "tests/fine_tune/test_resume_families.py::*",
    "tests/fine_tune/test_stage.py::test_a_tuned_adapter_can_*",
    "tests/fine_tune/training/test_reestimate.py::test_a_training_that_was_stopped_*",
    "tests/fine_tune/training/test_resume.py::test_killed_again_*",
    "tests/fine_tune/training/test_trainer.py::test_every_objective_gives_the_gradient_*[[][!t]*",
    "tests/fine_tune/training/test_trainer.py::test_memory_that_runs_out_*[[]bco-forward]",
    "tests/fine_tune/training/test_trainer.py::test_memory_that_runs_out_*[[]dpo-backward]",
    "tests/fine_tune/training/test_trainer.py::test_memory_that_runs_out_*[[]tgo-*",
    "tests/fine_tune/training/test_trainer.py::test_the_moving_average_*",
    "tests/fine_tune/training/test_trainer.py::test_the_objective_improves_*[[]sft]",
    "tests/generators/networks/test_clip_tokenizer.py::test_prompts_become_*[[]6000]",
    "tests/generators/test_merge.py::test_the_error_of_a_merge_*",
    "tests/generators/test_stage.py::test_two_processes_*",
    "tests/hub/test_route.py::test_commands_*",
    "tests/planning/test_families.py::test_half_precision_*",
    "tests/plugins/test_guide.py::test_the_examples_run_*",
    "tests/plugins/test_looking.py::test_looking_*",
    "tests/plugins/test_looking.py::test_running_names_*",
    "tests/rating/test_browser.py::test_everything_fits_*",
    "tests/rating/test_browser.py::test_sixty_*",
    "tests/rating/test_browser.py::test_the_page_says_*",
    "tests/rating/test_browser.py::test_thumbs_*",
    "tests/rating/test_browser.py::test_two_raters_*",
    "tests/rating/test_screenshots.py::*",
    "tests/report/test_explore.py::test_thousands_of_samples_*",
    "tests/report/test_screenshots.py::*",
    "tests/rewards/engine/test_batching.py::test_batches_are_halved_*",
    "tests/rewards/engine/test_scorer.py::test_on_a_pretended_gpu_*",
    "tests/rewards/engine/test_workers.py::test_a_worker_that_is_killed_*",
    "tests/rewards/engine/test_workers.py::test_signals_to_all_*[[]by a server of its own]",
    "tests/rewards/engine/test_workers.py::test_workers_end_*",
    "tests/rewards/isolated/test_workers.py::test_a_worker_that_hangs_*",
    "tests/rewards/isolated/test_workers.py::test_the_worker_ends_with_its_parent_*",
    "tests/rewards/networks/test_precision.py::test_compiled_towers_see_*",
    "tests/rewards/networks/test_precision.py::test_towers_of_many_sizes_*",
    "tests/rewards/networks/test_tokenizers.py::test_imagereward_reads_*[[]6000]",
    "tests/scoring/command/test_inputs.py::test_memory_does_not_grow_*",
    "tests/scoring/command/test_mixed_files.py::test_a_thousand_*",
    "tests/scoring/command/test_prompts.py::test_thousands_of_distinct_*",
    "tests/scoring/command/test_resume.py::test_a_call_that_is_running_*",
    "tests/scoring/command/test_resume.py::test_a_killed_call_*",
    "tests/scoring/command/test_wrong_inputs.py::test_a_full_disk",
    "tests/scoring/test_stage.py::test_two_processes_*",
    "tests/scoring/test_verify.py::test_the_packages_score_*",
    "tests/sharing/test_push.py::test_a_set_of_many_*",
    "tests/stages/test_ending.py::test_a_folder_that_may_not_be_written_*",
    "tests/stages/test_ending.py::test_an_interrupt_in_the_first_second_*[[]2]",
    "tests/stages/test_ending.py::test_an_interrupted_stage_*",
    "tests/stages/test_ending.py::test_terminals_that_lack_letters*",
    "tests/stages/test_group_signals.py::*",
    "tests/stages/test_init.py::test_a_signal_*",
    "tests/stages/test_init.py::test_a_stage_that_fails_*",
    "tests/stages/test_init.py::test_a_value_that_was_set_*",
    "tests/stages/test_init.py::test_all_stages_*",
    "tests/stages/test_init.py::test_captions_*",
    "tests/stages/test_init.py::test_dvc_runs_*",
    "tests/stages/test_init.py::test_what_is_missing_*",
    "tests/stages/test_plan.py::test_a_family_of_ones_own_*",
    "tests/stages/test_plan.py::test_a_plan_is_what_*",
    "tests/stages/test_plan.py::test_existing_images_*",
    "tests/stages/test_plan.py::test_what_does_not_fit_*",
    "tests/stages/test_plan.py::test_what_is_at_its_smallest_*",
    "tests/stages/test_score.py::test_the_module_scores_and_its_plan_agrees",
    "tests/storage/test_shards.py::test_shards_that_nobody_*",
    "tests/storage/test_shards.py::test_workers_end_when_*",
    "tests/test_devices.py::test_kept_memory_*",
    "tests/test_gpu.py::test_every_stage_*",
    "tests/test_systems.py::test_images_*",
    "tests/test_tutorials.py::test_a_tutorial_*",
    "tests/test_wrong_inputs.py::test_a_full_disk",
    "tests/test_wrong_inputs.py::test_a_truncated_image_*",
)
"""Patterns of test ids; `[[]` is a bracket."""
LONGEST = (
    "tests/benchmarks/test_gpu.py::test_sections_run_*",
    "tests/benchmarks/test_objectives.py::test_real_units_*",
    "tests/benchmarks/test_objectives.py::test_the_report_shows_*",
    "tests/benchmarks/test_training_memory.py::*",
    "tests/benchmarks/test_training_speed.py::*",
    "tests/faults/test_fuzz.py::test_injections",
    "tests/fine_tune/training/test_compile.py::*",
    "tests/executors/test_ranks_stages.py::test_ranks_with_*",
    "tests/fine_tune/distributed/test_parallel.py::test_the_stage_*",
    "tests/fine_tune/distributed/test_parallel.py::test_two_*[[]half-*",
    "tests/fine_tune/distributed/test_parallel.py::test_two_*[[]levels]",
    "tests/fine_tune/distributed/test_parallel.py::test_two_*[[]one-then-two]",
    "tests/fine_tune/distributed/test_parallel.py::test_two_*[[]pairs]",
    "tests/fine_tune/distributed/test_parallel.py::test_two_*[[]reward]",
    "tests/fine_tune/distributed/test_parallel.py::test_two_*[[]shared-point]",
    "tests/fine_tune/distributed/test_parallel.py::test_two_*[[]tau-anew]",
    "tests/fine_tune/distributed/test_start.py::test_tasks_*",
    "tests/fine_tune/distributed/test_start.py::test_they_train_*",
    "tests/fine_tune/reward_backprop/test_footprint.py::*[[]re*",
    "tests/fine_tune/reward_backprop/test_stage.py::test_a_training_*[[]draft_lv-*",
    "tests/generators/test_device.py::test_a_compiled_*",
    "tests/plugins/test_looking.py::test_looking_*[[]of every kind]",
    "tests/plugins/test_looking.py::test_looking_*[[]that read]",
    "tests/rewards/networks/test_precision.py::test_towers_in_generated_code_*",
    "tests/stages/test_ending.py::test_a_number_*",
    "tests/stages/test_group_signals.py::*",
    "tests/test_gpu.py::test_every_stage_*[[]auto-fp32]",
    "tests/test_gpu.py::test_every_stage_*[[]cuda-bf16]",
    "tests/test_dvc.py::test_a_project_of_an_earlier_pipeline_*",
    "tests/test_dvc.py::test_an_experiment_*",
    "tests/test_dvc.py::test_another_version_of_label_*",
    "tests/test_dvc.py::test_every_way_*",
    "tests/test_dvc.py::test_no_way_of_running_a_stage_builds_*",
    "tests/test_kill.py::*",
    "tests/test_masked_project.py::*",
    "tests/test_ratings_recipe.py::*",
    "tests/test_recipe_projects.py::test_a_*",
    "tests/test_star_ratings.py::*",
    "tests/test_tutorials.py::test_a_tutorial_*[[]ADD_A_REWARD]",
    "tests/test_tutorials.py::test_a_tutorial_*[[]COMPARE_OBJECTIVES]",
    "tests/test_tutorials.py::test_a_tutorial_*[[]OWN_RATINGS]",
    "tests/test_tutorials.py::test_a_tutorial_*[[]PAPER_SETTING]",
)
"""Those of the long tests that `.ci/long` alone runs."""


def is_longest(test: str) -> bool:
    """Whether the test of this id is run by hand alone."""
    return any(fnmatchcase(test, one) for one in LONGEST)


def is_long(test: str) -> bool:
    """Whether the test of this id is long."""
    parameters = test.partition("[")[2].removesuffix("]").split("-")
    listed = any(fnmatchcase(test, one) for one in (*TESTS, *LONGEST))
    return listed or any(family in parameters for family in FAMILIES)


def stale(root: Path) -> list[str]:
    """Patterns that match no test function below `root`."""
    return [pattern for pattern in (*TESTS, *LONGEST) if not _matches(root, pattern)]


def _matches(root: Path, pattern: str) -> bool:
    file, _, test = pattern.partition("::")
    functions = re.findall(r"^def (test_\w+)", (root / file).read_text(), re.MULTILINE)
    return any(fnmatchcase(name, test.partition("[[]")[0]) for name in functions)
