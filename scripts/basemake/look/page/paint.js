// Paints digital numbers in the colours of a recipe, as the build does: tables of the recipe's
// steps per band, which the server compiles, and between them the steps that mix bands, which are
// the functions of basemake/pixels/recipe.py once more.

const TRIANGLE = `#version 300 es
void main() {  // one triangle over everything
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;

export const MIXING = ["saturation", "lch_saturation"];  // by number, as in the shader
const MOST_MIXING = 32;

const COLOURS = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
precision highp sampler2DArray;
uniform usampler2D picture;     // red, green, blue as unsigned integers; number of the reading
uniform sampler2DArray tables;  // three layers each: of every reading, then after each mixing step
uniform int readings, mixing;
uniform int kinds[${MOST_MIXING}];
uniform float factors[${MOST_MIXING}];
uniform mat3 xyzFromRgb, rgbFromXyz;
uniform vec2 stride;            // pixels of the picture to a pixel painted
out vec4 colour;

vec3 lookUp(int table, uvec3 index) {
  ivec3 column = ivec3(index & 255u), row = ivec3(index >> 8u);
  return vec3(
    texelFetch(tables, ivec3(column.r, row.r, 3 * table), 0).r,
    texelFetch(tables, ivec3(column.g, row.g, 3 * table + 1), 0).r,
    texelFetch(tables, ivec3(column.b, row.b, 3 * table + 2), 0).r);
}

vec3 saturation(vec3 rgb, float factor) {
  return rgb * factor + (rgb.r + rgb.g + rgb.b) / 3.0 * (1.0 - factor);
}

vec3 pick(bvec3 first, vec3 a, vec3 b) { return mix(b, a, vec3(first)); }

vec3 lchSaturation(vec3 rgb, float factor) {
  vec3 light = pick(lessThanEqual(rgb, vec3(0.04045)), rgb / 12.92,
    pow((rgb + 0.055) / 1.055, vec3(2.4)));
  vec3 t = xyzFromRgb * light;
  vec3 f = pick(greaterThan(t, vec3(216.0 / 24389.0)), pow(max(t, 1e-9), vec3(1.0 / 3.0)),
    (t * (24389.0 / 27.0) + 16.0) / 116.0);
  f = f.y + (f - f.y) * factor;
  t = pick(greaterThan(f, vec3(6.0 / 29.0)), f * f * f,
    (116.0 * f - 16.0) * (27.0 / 24389.0));
  vec3 c = clamp(rgbFromXyz * t, 0.0, 1.0);
  return pick(lessThanEqual(c, vec3(0.0031308)), 12.92 * c,
    1.055 * pow(max(c, 1e-9), vec3(0.41666666666)) - 0.055);
}

void main() {
  uvec4 dn = texelFetch(picture, ivec2(gl_FragCoord.xy * stride), 0);
  if (dn.a == 0u) { colour = vec4(0.0); return; }
  vec3 rgb = lookUp(int(dn.a) - 1, dn.rgb);
  for (int step = 0; step < mixing; step++) {
    rgb = kinds[step] == 0 ? saturation(rgb, factors[step]) : lchSaturation(rgb, factors[step]);
    rgb = lookUp(readings + step, uvec3(clamp(rgb, 0.0, 1.0) * 65535.0 + 0.5));
  }
  colour = vec4(rgb / 255.0, 1.0);
}`;

const SCREEN = `#version 300 es
precision highp float;
uniform sampler2D before, after;
uniform vec2 size, corner;      // of the picture in its pixels; of it on the screen
uniform float height, zoom, split;
uniform vec3 ground;
out vec4 colour;

void main() {
  vec2 at = vec2(gl_FragCoord.x, height - gl_FragCoord.y), from = (at - corner) / zoom;
  if (any(lessThan(from, vec2(0.0))) || any(greaterThanEqual(from, size))) {
    colour = vec4(ground, 1.0);
    return;
  }
  vec4 old, now;
  if (zoom < 1.0) {
    old = texture(before, from / size);
    now = texture(after, from / size);
  } else {
    old = texelFetch(before, ivec2(from), 0);
    now = texelFetch(after, ivec2(from), 0);
  }
  vec4 shown = at.x < split ? old : now;
  colour = vec4(shown.rgb + ground * (1.0 - shown.a), 1.0);
}`;

const TABLE = 65536;

// The steps per band before, between and after those that mix, each group as text.
function grouped(steps) {
  const groups = [[]];
  for (const step of steps)
    if (MIXING.includes(step.step)) groups.push([]);
    else groups.at(-1).push(step);
  return groups.map((group, at) => JSON.stringify([at === groups.length - 1, group]));
}

export class Painter {
  // `state` has the number of readings and the matrices of `lch_saturation`, row by row.
  constructor(canvas, state) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false });
    if (!gl) throw new Error("This browser has no WebGL 2: use a current Firefox, Chrome or Safari.");
    this.gl = gl;
    this.readings = state.readings;
    this.colours = this.program(COLOURS);
    this.screen = this.program(SCREEN);
    gl.useProgram(this.colours.program);
    gl.uniformMatrix3fv(this.colours.at("xyzFromRgb"), true, state.xyz_from_rgb);
    gl.uniformMatrix3fv(this.colours.at("rgbFromXyz"), true, state.rgb_from_xyz);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.frame = gl.createFramebuffer();
    this.small = this.target();
  }

  program(fragment) {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, TRIANGLE], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS))
      throw new Error("WebGL cannot compile: " + gl.getProgramInfoLog(program));
    const places = {};
    const at = name => places[name] ??= gl.getUniformLocation(program, name);
    return { program, at };
  }

  texture(target, filter) {
    const gl = this.gl, texture = gl.createTexture();
    gl.bindTexture(target, texture);
    gl.texParameteri(target, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(target, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texParameteri(target, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(target, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    return texture;
  }

  // A picture of the server's: uint16, four to a pixel.
  picture(width, height, numbers) {
    const gl = this.gl, texture = this.texture(gl.TEXTURE_2D, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA16UI, width, height, 0, gl.RGBA_INTEGER,
      gl.UNSIGNED_SHORT, numbers);
    return { width, height, texture };
  }

  // What a recipe is painted with. `ask` fetches tables of groups of its steps; those of groups
  // that have not changed are taken over from the look that is replaced, `old`.
  async look(steps, ask, old) {
    const gl = this.gl, mixing = steps.filter(step => MIXING.includes(step.step));
    if (mixing.length > MOST_MIXING)
      throw new Error(`The page shows at most ${MOST_MIXING} steps that mix bands.`);
    const groups = grouped(steps), same = old?.groups.length === groups.length;
    const numbers = [...groups.keys()].filter(at => !same || groups[at] !== old.groups[at]);
    const tables = new Float32Array(await ask(numbers));
    const texture = same ? old.texture : this.texture(gl.TEXTURE_2D_ARRAY, gl.NEAREST);
    gl.bindTexture(gl.TEXTURE_2D_ARRAY, texture);
    if (!same) {
      if (old) gl.deleteTexture(old.texture);
      gl.texStorage3D(gl.TEXTURE_2D_ARRAY, 1, gl.R32F, 256, 256, 3 * (this.readings + mixing.length));
    }
    let from = 0;
    for (const number of numbers) {
      const first = number ? this.readings + number - 1 : 0, layers = number ? 3 : 3 * this.readings;
      gl.texSubImage3D(gl.TEXTURE_2D_ARRAY, 0, 0, 0, 3 * first, 256, 256, layers, gl.RED, gl.FLOAT,
        tables.subarray(from, from += layers * TABLE));
    }
    return {
      texture, groups,
      kinds: mixing.map(step => MIXING.indexOf(step.step)),
      factors: mixing.map(step => step.factor),
    };
  }

  // An image to paint on.
  target() {
    const gl = this.gl, texture = this.texture(gl.TEXTURE_2D, gl.LINEAR_MIPMAP_LINEAR);
    return { texture, width: 0, height: 0 };
  }

  paint(target, picture, look, width = picture.width, height = picture.height) {
    const gl = this.gl, { program, at } = this.colours;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, target.texture);
    if (target.width !== width || target.height !== height) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
      Object.assign(target, { width, height });
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, target.texture, 0);
    gl.viewport(0, 0, width, height);
    gl.useProgram(program);
    gl.bindTexture(gl.TEXTURE_2D, picture.texture);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D_ARRAY, look.texture);
    gl.uniform1i(at("picture"), 0);
    gl.uniform1i(at("tables"), 1);
    gl.uniform1i(at("readings"), this.readings);
    gl.uniform1i(at("mixing"), look.kinds.length);
    if (look.kinds.length) {
      gl.uniform1iv(at("kinds"), look.kinds);
      gl.uniform1fv(at("factors"), look.factors);
    }
    gl.uniform2f(at("stride"), picture.width / width, picture.height / height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    target.reduced = false;
  }

  // The levels of what was painted last on a target, row by row from the top.
  levels(target) {
    const gl = this.gl, levels = new Uint8ClampedArray(4 * target.width * target.height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, target.texture, 0);
    gl.readPixels(0, 0, target.width, target.height, gl.RGBA, gl.UNSIGNED_BYTE, levels);
    return levels;
  }

  // A picture reduced to so many pixels, as levels.
  reduced(picture, look, width, height) {
    this.paint(this.small, picture, look, width, height);
    return this.levels(this.small);
  }

  show(before, after, view, ground) {
    const gl = this.gl, { program, at } = this.screen, { width, height } = gl.canvas;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.useProgram(program);
    [before, after].forEach((target, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, target.texture);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER,
        view.zoom < 1 ? gl.LINEAR_MIPMAP_LINEAR : gl.NEAREST);
      if (view.zoom < 1 && !target.reduced) {
        gl.generateMipmap(gl.TEXTURE_2D);
        target.reduced = true;
      }
    });
    gl.uniform1i(at("before"), 0);
    gl.uniform1i(at("after"), 1);
    gl.uniform2f(at("size"), after.width, after.height);
    gl.uniform2f(at("corner"), view.left, view.top);
    gl.uniform1f(at("height"), height);
    gl.uniform1f(at("zoom"), view.zoom);
    gl.uniform1f(at("split"), view.split);
    gl.uniform3fv(at("ground"), ground);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}
