from check_offline import outside

PAGE = """
<link rel="stylesheet" href="https://example.com/font-awesome.css">
<link rel="canonical" href="https://example.com/page.html">
<script src="//example.com/thebe.js"></script><script src="_static/local.js"></script>
<a href="https://example.com">a link is fine</a>
<img src="_static/local.png"><img src="http://example.com/picture.png">
"""


def test_only_what_a_page_loads_from_elsewhere_is_found(tmp_path):
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "style.css").write_text('@import "https://example.com/a.css"; b { background: url(local.png) }')
    assert outside(tmp_path) == [
        "page.html: <link> https://example.com/font-awesome.css",
        "page.html: <script> //example.com/thebe.js",
        "page.html: <img> http://example.com/picture.png",
        "style.css: https://example.com/a.css",
    ]
