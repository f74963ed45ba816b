"""Valid files of the readers of text, to be mutated, and what YAML stumbles over."""

import io

from fuzz_bytes import NASTY
from ruamel.yaml import YAML

LISTS = [
    b"0\t1\tRun/a.mp4\n1\t2\tWalk/b c.avi\n2\t1\tRun/d.mp4\n",
    b"path,label\nRun/a.mp4,1\nWalk/b c.mp4,2\n",
    'Video,ClassID,Class\nRun/ä.mp4,1,Run\n"Walk/b, c.mp4",2,Walk\n'.encode(),
    b"path\nRun/a.mp4\nWalk/b.mp4\n",
    b"Run/a.mp4 1\nWalk/b c.avi 2\n",
    b"Run/a 24 1\nWalk/b c 300 2\n",
    b"\xef\xbb\xbf0\t1\tRun/a.mp4\r\n1\t2\tWalk/b.mp4\r\n",
]
TABLES = [b"5\tRun\n6\tTake off\n10\tWalk\n", b"0,Run\n1,Walk\n", "0 Run\r\n1 Wälk\r\n".encode()]
CLIPS = (
    b"id,label,class_name,subset,scene,num_frames,fps,width,height,rotation,pix_fmt,colour_range,mean_luma,"
    b"dark_share,luma_crc32,sha256\n"
    b"Run/a.mp4,0,Run,train,s1,24,29.97,320,240,0,yuv420p,limited,12.5,0.75,123456,"
    + b"ab" * 32
    + b'\n"Walk/b, c.mp4",1,"Wa""lk",train,s2,7,15,320,240,90,yuv420p,,0,1,0,'
    + b"cd" * 32
    + b"\nd.mp4,-1,,test,d.mp4,9,1e+06,32,32,0,gray,full,255,1e-05,4294967295,"
    + b"ef" * 32
    + b"\n"
)
YAML_NASTY = (
    *NASTY[:50],
    *(b"!!int x", b"!!bool x", b"!!float ''", b"!!binary x", b"!!timestamp x", b"!!set {a}", b"!!omap [a: 1]"),
    *(b"!!python/object/apply:os.system [x]", b"2001-99-99", b"0x" + b"f" * 5000, b"&a [*a]", b"&a {b: *a}", b"*a"),
    *(b"{<<: {x: 1}}", b"[" * 60, b"{a: " * 60, b"- " * 400, b"? ", b"|\n  x", b">9", b'"\\ud800"', b'"\\0"', b"%"),
    *(b"---\n", b"...\n", b"# [[[", b"\n  x: 1", b": ", b"[1, 2", b"{}", b"[]", b"~", b"'", b"@", b"`", b"!<x>"),
)
METRICS = {"n": 88, "student": {"top1": 0.7, "top5": [0.9, 1.0]}, "teacher": {"top1": 0.6}}


def as_yaml(params):
    buffer = io.StringIO()
    YAML(typ="safe", pure=True).dump(params, buffer)
    return buffer.getvalue().encode()
