#!/usr/bin/env bash
# PyAV 18.1.0: options of av.open, "to pass to the container and all streams", do not reach the decoder.
#
# av.open(file, options=...) and av.open(file, stream_options=[...], "options to pass to each stream") hand the options to FFmpeg's
# look at the first packets, and the decoder that container.decode uses is another one. Options of decoders, such as skip_frame or
# err_detect, are taken without error and change nothing. They work when they are set as stream.codec_context.options before the
# first frame is decoded.
#
# Seen: 24 frames, of which 4 are keyframes; with skip_frame=nokey, which leaves the keyframes alone: 24 by options, 24 by
# stream_options, 4 by codec_context.options.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.1.0" "numpy==2.4.6"
cat > "$work/options.py" <<'PYTHON'
import io

import av
import numpy as np

clip = io.BytesIO()
with av.open(clip, "w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=24, options={"g": "6", "sc_threshold": "0"})
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    for i in range(24):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * i, np.uint8), format="rgb24")))
    container.mux(stream.encode())

KEYS_ONLY = {"skip_frame": "nokey"}


def count(codec_options=None, **arguments):
    clip.seek(0)
    with av.open(clip, **arguments) as container:
        stream = container.streams.video[0]
        if codec_options:
            stream.codec_context.options = codec_options
        return sum(1 for _ in container.decode(stream))


found = {
    "no option": count(),
    "options": count(options=KEYS_ONLY),
    "stream_options": count(stream_options=[KEYS_ONLY]),
    "codec_context.options": count(codec_options=KEYS_ONLY),
}
for way, frames in found.items():
    print(f"{way}: {frames} frames")
if list(found.values()) != [24, 24, 24, 4]:
    raise SystemExit("CHANGED: 24, 24, 24 and 4 frames were expected")
PYTHON
"$work/venv/bin/python" "$work/options.py"
echo "as described: options of av.open do not reach the decoder"
