"""What `tgo score --help` says, a paragraph a line; imports nothing, so that it is there at once."""

SUMMARY = "Score images with reward models: one call, one Parquet file; no pipeline and no parameter file."
EXAMPLES = """\b
Examples:
  tgo score images/ --prompts prompts.csv --rewards hpsv2.1,aesthetic
  tgo score "samples/*.png" --prompt "a red fox" --rewards clip=demo"""
INPUT = (
    "A folder is searched with everything in it, sorted by path, for files that are images by their extension (.png "
    ".jpg .jpeg .webp .avif .gif .bmp .tif .tiff .ppm .tga .jp2 .psd and their variants); hidden files are passed "
    "over, others are left out and counted. A folder without images may hold clips (.mp4 .mkv .webm .mov .avi), "
    "Parquet files or a data set saved by `datasets`. Paths in a table are relative to it."
)
PROMPTS = (
    "Prompts come from --prompts, --prompt, a column of the table, a metadata.csv, .jsonl or .parquet with "
    "file_name and prompt in the folder, or a .txt file beside each image. An image without one is an error, unless "
    "the reward needs none (aesthetic); one that a table lists with an empty (null) prompt has the reason in its row."
)
OUTPUT = (
    "The result has a row per image, in order: image, prompt, one column per reward, error. An image that cannot be "
    "scored has empty scores and the reason. Repeat the call to continue after an interruption, to add a reward, "
    "or after images were added or changed: what is scored already is kept."
)
EXIT_CODES = """\b
Exit codes:
  0    every image is scored
  2    the input is wrong; one line says why
  3    finished, but some images could not be scored
  130  interrupted; the same call continues"""
SCORE = "\n\n".join((SUMMARY, EXAMPLES, INPUT, PROMPTS, OUTPUT, EXIT_CODES))
